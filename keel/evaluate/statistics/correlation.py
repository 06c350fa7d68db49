"""Rank correlations, alone and with an interval over clusters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate.statistics.intervals import LEVEL, Interval, check_level

Array = np.ndarray
Correlation = Callable[[Sequence[float], Sequence[float]], "float | None"]


def ranks(values: Sequence[float]) -> Array:
    """Ranks from 1, equal values share their mean rank. float64 [n]."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties by mean rank. None when a side is constant: the correlation is not defined then."""
    _same_length(x, y)
    rx, ry = ranks(x), ranks(y)
    if len(rx) < 2 or np.ptp(rx) == 0 or np.ptp(ry) == 0:
        return None
    rx, ry = rx - rx.mean(), ry - ry.mean()
    return float((rx @ ry) / math.sqrt((rx @ rx) * (ry @ ry)))


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y). None when a side is constant."""
    _same_length(x, y)
    ax, ay = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    balance = untied_x = untied_y = 0.0
    for i in range(len(ax) - 1):  # one row at a time: the n x n matrix is never held
        sx, sy = np.sign(ax[i + 1 :] - ax[i]), np.sign(ay[i + 1 :] - ay[i])
        balance += float(sx @ sy)
        untied_x += float(np.abs(sx).sum())
        untied_y += float(np.abs(sy).sum())
    if untied_x == 0 or untied_y == 0:
        return None
    return balance / math.sqrt(untied_x * untied_y)


def _same_length(x: Sequence[float], y: Sequence[float]) -> None:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")


def correlation_interval(
    of: Correlation,
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[str] | None = None,
    *,
    draws: int = 1_000,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """A correlation with its percentile bootstrap interval; whole clusters (prompts) are drawn. None where it is not defined on the data or
    on more than one in ten resamples."""
    _same_length(x, y)
    check_level(level)
    mean = of(x, y)
    if mean is None:
        return None
    names = [str(i) for i in range(len(x))] if clusters is None else list(clusters)
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    groups = [np.array(rows[name]) for name in sorted(rows)]
    x_n, y_n, n = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), len(groups)
    keys = np.array([stable_hash("correlation", seed, draw) for draw in range(draws)], dtype=np.uint64)
    drawn = np.stack([np.minimum((uniform(keys, k) * n).astype(np.int64), n - 1) for k in range(n)], axis=1)
    found: list[float] = []
    for row in drawn:
        picked = np.concatenate([groups[i] for i in row])
        value = of(x_n[picked].tolist(), y_n[picked].tolist())
        if value is not None:
            found.append(value)
    if len(found) < 0.9 * draws:
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)
