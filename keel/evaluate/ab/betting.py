"""Always-valid tests and intervals for the mean of values in [0, 1], by betting (Waudby-Smith & Ramdas 2023, arXiv 2010.09686).

The capital of a gambler who bets against ``mean == m`` is a martingale if that is the mean, whatever the distribution and however often one
looks; by Ville's inequality it ever reaches ``1 / alpha`` with probability at most alpha, from the first value on. The gambler here splits
his money over fixed bets, a grid of fractions of what can be lost, half of it on a higher and half on a lower mean: nothing to tune, and no
variance that could be estimated as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_FRACTIONS = np.array([0.01, 0.02, 0.035, 0.06, 0.1, 0.16, 0.25, 0.36, 0.5, 0.7, 0.9])
_EDGE = 1e-6
_ROUNDS = 22
_FOREVER = 1_000  # times as many values as there are: it is not told when beyond that


def log_capital(values: Sequence[float] | np.ndarray, mean: float) -> np.ndarray:
    """Log of the capital after each value, starting from 1. float64 [n]. Raises ValueError for values outside [0, 1]."""
    up, down = _halves(_checked(values), mean)
    return np.logaddexp(up, down) - math.log(2)


def _halves(x_n: np.ndarray, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-capital of those who bet on a higher and on a lower mean."""
    m = min(max(mean, _EDGE), 1 - _EDGE)
    return tuple(_mixed(np.cumsum(np.log1p(_FRACTIONS[:, None] * scaled), axis=1)) for scaled in ((x_n - m) / m, (m - x_n) / (1 - m)))  # type: ignore[return-value]


def _mixed(logs_Fn: np.ndarray) -> np.ndarray:
    top = logs_Fn.max(0)
    return top + np.log(np.exp(logs_Fn - top).mean(0))


def interval(values: Sequence[float] | np.ndarray, alpha: float = 0.05) -> tuple[float, float]:
    """The means that no gambler has ever become rich against: holds the true mean at all times together with probability 1 - alpha.

    Where none is left (the values do not have one mean), that of the last time alone.
    """
    x_n = _checked(values)
    if not len(x_n):
        return 0.0, 1.0
    limit = math.log(1 / alpha)

    def against(m: float) -> float:
        return float(log_capital(x_n, m).max())

    grid = np.unique(np.concatenate([np.linspace(0.0, 1.0, 21), [float(x_n.mean())]]))
    found = [against(float(m)) for m in grid]
    if min(found) >= limit:
        against = lambda m: float(log_capital(x_n, m)[-1])  # noqa: E731
        found = [against(float(m)) for m in grid]
    inside = float(grid[int(np.argmin(found))])
    return _end(against, inside, 0.0, limit), _end(against, inside, 1.0, limit)


def _end(against, inside: float, outside: float, limit: float) -> float:
    """Capital is convex in the mean it is bet against: between ``inside`` and ``outside`` it crosses the limit once."""
    if against(outside) < limit:
        return outside
    for _ in range(_ROUNDS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if against(middle) < limit else (inside, middle)
    return outside


def first_crossing(values: Sequence[float] | np.ndarray, mean: float, alpha: float = 0.05) -> int | None:
    """How many values it took until the capital against ``mean`` was ``1 / alpha``; None = it never was."""
    rich = np.flatnonzero(log_capital(values, mean) >= math.log(1 / alpha)) if len(values) else np.empty(0)
    return int(rich[0]) + 1 if len(rich) else None


def more_until(values: Sequence[float] | np.ndarray, mean: float, alpha: float = 0.05) -> int | None:
    """About how many more values like these until ``mean`` is left outside; 0 = it is, None = such values never get there."""
    x_n = _checked(values)
    if not len(x_n):
        return None
    if first_crossing(x_n, mean, alpha) is not None:
        return 0
    m = min(max(mean, _EDGE), 1 - _EDGE)
    sides = [np.log1p(_FRACTIONS[:, None] * scaled).sum(1) for scaled in ((x_n - m) / m, (m - x_n) / (1 - m))]
    totals = np.concatenate(sides)  # each bet's log-capital so far; it grows on at its rate

    def poor(more: int) -> bool:
        grown = totals * (1 + more / len(x_n))
        return float(np.log(np.exp(grown - grown.max()).mean()) + grown.max()) < math.log(1 / alpha)

    low, high = 0, 1
    while poor(high):
        low, high = high, 2 * high
        if high > _FOREVER * len(x_n):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if poor(middle) else (low, middle)
    return high


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    x_n = np.asarray(values, dtype=np.float64)
    if len(x_n) and not (np.isfinite(x_n).all() and x_n.min() >= 0 and x_n.max() <= 1):
        raise ValueError("bets need values in [0, 1]")
    return x_n
