"""Curves for a picture: as many columns as it has pixels, each with the least, the greatest and the mean value of its steps, so that no
spike is lost; what is not finite is told apart. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keel.evaluate.statistics import student

Floats = NDArray[np.float64]
_KINDS = ("NaN", "Infinity", "-Infinity")


@dataclass(frozen=True, slots=True)
class Grid:
    """The columns of a picture. ``x_B``: where each stands; ``edges``: lower bound and width, None where each column is one step."""

    x_B: Floats
    edges: tuple[float, float] | None = None

    def column_of(self, steps_N: Floats) -> NDArray[np.int64]:
        if self.edges is None:
            return np.searchsorted(self.x_B, steps_N)
        low, width = self.edges
        return np.clip(((steps_N - low) / width).astype(np.int64), 0, len(self.x_B) - 1)


@dataclass(frozen=True, slots=True)
class Binned:
    """One curve on a grid; NaN where it has nothing. ``holes``: (column, what stood there) of values that are not finite."""

    mean_B: Floats
    low_B: Floats
    high_B: Floats
    holes: tuple[tuple[int, str], ...] = ()


def window(steps: Sequence[Floats]) -> tuple[float, float] | None:
    """First and last step of all; None where there is none."""
    ends = [(float(s.min()), float(s.max())) for s in steps if len(s)]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def grid(steps: Sequence[Floats], low: float, high: float, pixels: int) -> Grid:
    """For curves with these steps between ``low`` and ``high``: every step where they fit, else ``pixels`` equal columns."""
    inside = [s[(s >= low) & (s <= high)] for s in steps]
    if sum(len(s) for s in inside) <= 2 * pixels * max(1, len(inside)):
        every = np.unique(np.concatenate(inside)) if inside else np.empty(0)
        if len(every) <= 2 * pixels:
            return Grid(every)
    width = max((high - low) / pixels, 1e-12)
    return Grid(low + width * (np.arange(pixels, dtype=np.float64) + 0.5), (low, width))


def binned(steps: ArrayLike, values: ArrayLike, on: Grid, low: float, high: float) -> Binned:
    """A curve of steps [N] and values [N], in any order, between ``low`` and ``high``."""
    steps_N, values_N = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    inside = (steps_N >= low) & (steps_N <= high)
    if not inside.all():
        steps_N, values_N = steps_N[inside], values_N[inside]
    size = len(on.x_B)
    mean_B, low_B, high_B = np.full(size, np.nan), np.full(size, np.nan), np.full(size, np.nan)
    if not len(steps_N) or not size:
        return Binned(mean_B, low_B, high_B)
    column_N = on.column_of(steps_N)
    if (np.diff(column_N) < 0).any():
        order = np.argsort(column_N, kind="stable")
        column_N, values_N = column_N[order], values_N[order]
    finite = np.isfinite(values_N)
    holes = tuple((int(b), kind_of(float(v))) for b, v in zip(column_N[~finite], values_N[~finite]))
    column_N, values_N = column_N[finite], values_N[finite]
    if len(column_N):
        starts = np.flatnonzero(np.diff(column_N, prepend=-1))
        at = column_N[starts]
        low_B[at], high_B[at] = np.minimum.reduceat(values_N, starts), np.maximum.reduceat(values_N, starts)
        mean_B[at] = np.add.reduceat(values_N, starts) / np.diff(starts, append=len(column_N))
    return Binned(mean_B, low_B, high_B, tuple(dict.fromkeys(holes)))


def kind_of(value: float) -> str:
    """The name of a number that is not finite."""
    return _KINDS[0] if math.isnan(value) else _KINDS[1] if value > 0 else _KINDS[2]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Several runs as one: the mean of their means; the least and greatest value of any; a 95 % interval of the mean over runs (Student's
    t), NaN where fewer than two have a value."""

    mean_B: Floats
    low_B: Floats
    high_B: Floats
    inner_low_B: Floats
    inner_high_B: Floats


def pooled(curves: Sequence[Binned]) -> Pooled:
    """One curve of curves on the same grid, each one seed of the same settings."""
    mean_RB = np.stack([c.mean_B for c in curves])
    n_B = np.isfinite(mean_RB).sum(0)
    some = np.maximum(n_B, 1)
    mean_B = np.where(n_B > 0, np.nansum(mean_RB, 0) / some, np.nan)
    spread_B = np.sqrt(np.nansum((mean_RB - mean_B) ** 2, 0) / np.maximum(n_B - 1, 1))
    t_B = np.array([student(int(n) - 1) for n in n_B])
    half_B = np.where(n_B > 1, t_B * spread_B / np.sqrt(some), np.nan)
    low_B = np.fmin.reduce([c.low_B for c in curves])
    high_B = np.fmax.reduce([c.high_B for c in curves])
    return Pooled(mean_B, low_B, high_B, mean_B - half_B, mean_B + half_B)


def plain(values_B: Floats) -> list[float | None]:
    """For JSON, to 6 digits; None where there is nothing."""
    return [None if v != v else float(f"{v:.6g}") for v in values_B.tolist()]


def steps_of(x_B: Floats) -> list[float]:
    """For JSON: whole steps as whole numbers."""
    return [int(x) if x == int(x) else round(x, 3) for x in x_B.tolist()]
