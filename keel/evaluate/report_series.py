"""Curves with as many points as a picture can show: no spike and no value that is not finite is thinned away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

BUCKETS = 400  # of a long curve, each drawn by its least and greatest value
MOST_APART = 60  # crosses and rings of a curve


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: finite values at increasing steps."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dots: bool = False  # few points: evaluations
    holes: tuple[float, ...] = ()  # steps whose value is not finite
    lost: tuple[tuple[float, float], ...] = ()  # (step, value) that an emergency took back
    trend: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # means over stretches, of a curve that was thinned


def series_of(label: str, steps: ArrayLike, values: ArrayLike, dots: bool = False) -> Series:
    """A curve of steps [N] and values [N] in any order, thinned for a picture; values that are not finite are its holes."""
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if (np.diff(x) < 0).any():
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    finite = np.isfinite(y)
    holes = tuple(spread(x[~finite].tolist(), MOST_APART))
    return _thinned(Series(label, (), (), dots, holes), x[finite], y[finite])


def thin(s: Series) -> Series:
    """A curve with no more points than a picture can show."""
    return s if len(s.x) <= 2 * BUCKETS + 2 else _thinned(s, np.asarray(s.x), np.asarray(s.y))


def _thinned(s: Series, x: np.ndarray, y: np.ndarray) -> Series:
    if len(x) <= 2 * BUCKETS + 2:
        return replace(s, x=tuple(x.tolist()), y=tuple(y.tolist()))
    edges = np.linspace(0, len(x), BUCKETS + 1).astype(np.int64)
    kept = {0, len(x) - 1}
    for start, end in pairwise(edges.tolist()):
        kept |= {start + int(y[start:end].argmin()), start + int(y[start:end].argmax())}
    at = np.array(sorted(kept))
    sizes = np.diff(edges)
    trend = tuple(tuple((np.add.reduceat(z, edges[:-1]) / sizes).tolist()) for z in (x, y))
    return replace(s, x=tuple(x[at].tolist()), y=tuple(y[at].tolist()), trend=(trend[0], trend[1]))


def spread(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` of these, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
