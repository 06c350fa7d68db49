"""Group sequential boundaries, by exact recursive integration of the score process (Armitage, McPherson & Rowe 1969; Jennison &
Turnbull 2000,
chapter 19). A look k sees ``z_k``; the score ``s_k = z_k sqrt(t_k)`` moves like Brownian motion with drift over information shares t."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from keel.evaluate.statistics.distributions import NORMAL, normal_cdf, normal_pdf

_NODES = 160
_FAR = 8.5  # standard deviations beyond which nothing is left to integrate
_CLASSIC = {"pocock": 0.0, "obrien_fleming": 0.5}  # c t^-power

Spending = Callable[[float], float]


def crossing(bounds: Sequence[float], shares: Sequence[float], drift: float = 0.0) -> tuple[list[float], list[float]]:
    """For each look the chance that z crosses the upper bound there first, and the lower bound.

    ``bounds[k]`` > 0 is where |z| stops, ``shares`` rise to 1, ``drift`` is the mean of z at share 1 (0 = no difference).
    """
    _check(bounds, shares)
    up, down = [], []
    nodes, weights = _quadrature()
    points, mass = np.zeros(1), np.ones(1)  # where the score is, with which weight, among what still goes on
    before = 0.0
    for bound, share in zip(bounds, shares, strict=True):
        step, edge, mean = math.sqrt(share - before), bound * math.sqrt(share), drift * (share - before)
        up.append(float(mass @ (1 - normal_cdf((edge - points - mean) / step))))
        down.append(float(mass @ normal_cdf((-edge - points - mean) / step)))
        low, high = (max(-edge, drift * share - _FAR * math.sqrt(share)), min(edge, drift * share + _FAR * math.sqrt(share)))
        if low >= high:  # nothing goes on
            return up + [0.0] * (len(bounds) - len(up)), down + [0.0] * (len(bounds) - len(down))
        new = (high - low) / 2 * nodes + (high + low) / 2
        density = mass @ (normal_pdf((new[None, :] - points[:, None] - mean) / step) / step)
        points, mass, before = new, density * weights * (high - low) / 2, share
    return up, down


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(_NODES)


def classic(kind: str, shares: Sequence[float], alpha: float = 0.05) -> tuple[float, ...]:
    """Two-sided bounds of Pocock (1977, the same at each look) or O'Brien & Fleming (1979, ``c / sqrt(share)``), also at unequal shares."""
    power = _CLASSIC[kind]

    def bounds(c: float) -> list[float]:
        return [c * t**-power for t in shares]

    low, high = 0.5, 8.0
    for _ in range(50):
        c = (low + high) / 2
        up, down = crossing(bounds(c), shares)
        low, high = (c, high) if sum(up) + sum(down) > alpha else (low, c)
    return tuple(bounds((low + high) / 2))


def spent(kind: str, alpha: float = 0.05) -> Spending:
    """How much of alpha may be spent up to an information share: Lan & DeMets (1983), like O'Brien-Fleming or like Pocock; two-sided."""
    if kind == "pocock":
        return lambda t: alpha * math.log1p((math.e - 1) * min(t, 1.0))
    if kind == "obrien_fleming":
        return lambda t: 2 - 2 * NORMAL.cdf(NORMAL.inv_cdf(1 - alpha / 2) / math.sqrt(min(t, 1.0)))
    raise ValueError(f"no spending function {kind!r}: {' or '.join(_CLASSIC)}")


def spending(of: Spending, shares: Sequence[float]) -> tuple[float, ...]:
    """Bounds that spend alpha as ``of`` says, look by look: where the next looks lie does not change the earlier bounds."""
    bounds: list[float] = []
    used = 0.0
    for k, share in enumerate(shares):
        allowed = of(share) - used
        low, high = 0.0, _FAR
        for _ in range(50):
            middle = (low + high) / 2
            up, down = crossing([*bounds, middle], shares[: k + 1])
            low, high = (middle, high) if up[-1] + down[-1] > allowed else (low, middle)
        bounds.append((low + high) / 2)
        used = of(share)
    return tuple(bounds)


def drift_of(bounds: Sequence[float], shares: Sequence[float], power: float) -> float:
    """The drift at which the upper bound is crossed with probability ``power``."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(crossing(bounds, shares, middle)[0]) < power else (low, middle)
    return (low + high) / 2


def _check(bounds: Sequence[float], shares: Sequence[float]) -> None:
    if len(bounds) != len(shares) or not shares:
        raise ValueError(f"{len(bounds)} bounds for {len(shares)} looks")
    if any(b <= a for a, b in zip([0.0, *shares], shares)) or shares[-1] > 1 + 1e-9:
        raise ValueError(f"shares of information must rise from above 0 to 1: {list(shares)}")
    if any(b < 0 for b in bounds):
        raise ValueError("bounds are not negative")
