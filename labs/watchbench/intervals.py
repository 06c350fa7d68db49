"""Exact intervals of shares and rates."""

from __future__ import annotations

import math
from collections.abc import Callable

from keel.evaluate.statistics import Interval

LEVEL = 0.95


def share(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Clopper and Pearson (1934): the shares under which ``hits`` of ``n`` or more extreme ones have at least ``(1 - level) / 2``. Of no
    trials nothing is known: 0 to 1, the share NaN."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _root(lambda p: _at_least(hits, n, p) - tail, 0.0, 1.0)
    high = 1.0 if hits == n else _root(lambda p: tail - (1 - _at_least(hits + 1, n, p)), 0.0, 1.0)
    return Interval(hits / n, low, high, n)


def rate(events: int, exposure: float, level: float = LEVEL) -> Interval:
    """Garwood (1936): events of a Poisson process for one unit of ``exposure``. Raises ValueError without exposure."""
    if exposure <= 0:
        raise ValueError("a rate needs something that it is a rate of")
    tail = (1 - level) / 2
    most = events + 10 * math.sqrt(events + 1) + 10  # beyond both ends of any usual level
    low = 0.0 if events == 0 else _root(lambda m: 1 - _fewer(events, m) - tail, 0.0, most)
    high = _root(lambda m: tail - _fewer(events + 1, m), 0.0, most)
    return Interval(events / exposure, low / exposure, high / exposure, events)


def _at_least(hits: int, n: int, p: float) -> float:
    """P(X >= hits) of a binomial."""
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))


def _fewer(events: int, mean: float) -> float:
    """P(X < events) of a Poisson."""
    if mean == 0:
        return 1.0
    return math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(events))


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is 0."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
