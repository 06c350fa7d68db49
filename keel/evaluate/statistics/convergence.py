"""How the interval narrows with the number of prompts, and how many more there would have to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from keel.core.hashing import permutation
from keel.evaluate.statistics.distributions import NORMAL
from keel.evaluate.statistics.intervals import LEVEL, Interval, clustered, share_interval


@dataclass(frozen=True, slots=True)
class Convergence:
    """``curve``: the interval over the first n prompts of a fixed random order, at rising n. ``more_to_decide``: further prompts until the
    interval would leave one half if the rate stays where it is (0 = it has, None = it stands at one half). ``more_to_halve``: until the
    interval is half as wide."""

    curve: tuple[Interval, ...]
    more_to_decide: int | None
    more_to_halve: int


def convergence(shares: Mapping[str, float], *, level: float = LEVEL, points: int = 12, seed: int = 0) -> Convergence:
    """The convergence of a win rate. Raises ValueError without prompts."""
    names = sorted(shares)
    if not names:
        raise ValueError("no prompt to draw a curve of")
    ordered = [shares[names[i]] for i in permutation(len(names), "convergence", seed)]
    n = len(ordered)
    sizes = sorted({max(2, round(n ** ((k + 1) / points))) for k in range(points)} | {n})
    curve = tuple(share_interval(clustered(ordered[:size]), level) for size in sizes if size <= n)
    return Convergence(curve, more_to_decide(clustered(ordered).mean, _deviation(ordered), n, level, curve[-1]), 3 * n)


def more_to_decide(mean: float, deviation: float, n: int, level: float, now: Interval) -> int | None:
    """Further prompts until an interval of ``level`` around ``mean`` would leave one half, in half of all cases."""
    if now.low > 0.5 or now.high < 0.5:
        return 0
    if mean == 0.5:
        return None
    z = NORMAL.inv_cdf((1 + level) / 2)
    return max(1, math.ceil((z * (deviation or 0.5) / (mean - 0.5)) ** 2) - n)


def _deviation(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
