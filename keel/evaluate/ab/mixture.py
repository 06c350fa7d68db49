"""The asymptotic always-valid interval: a normal mixture over all effects (Robbins 1970; Howard et al. 2021, arXiv 1810.08240). It
believes the
estimated variance, which is 0 after two equal values: it may be looked at after a burn-in only, and never before 100 values."""

from __future__ import annotations

import math

BURN_IN = 100


def ratio(horizon: float, alpha: float = 0.05) -> float:
    """The scale r of the mixture whose interval is narrowest at ``horizon`` values."""
    return math.sqrt((-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / horizon)


def half_width(n: float, deviation: float, horizon: float, alpha: float = 0.05) -> float:
    """Half of the interval after ``n`` values: ``s sqrt(2 (n r^2 + 1) ln(sqrt(n r^2 + 1) / alpha) / (n r)^2)``."""
    r = ratio(horizon, alpha)
    grown = n * r * r + 1
    return deviation * math.sqrt(2 * grown * math.log(math.sqrt(grown) / alpha) / (n * r) ** 2)


def p_value(effect: float, n: float, deviation: float, horizon: float, alpha: float = 0.05) -> float:
    """The always-valid p of "no effect": one over the mixture's likelihood ratio, at most 1. ``alpha`` sets the mixture's scale."""
    if deviation <= 0:
        return 1.0
    r = ratio(horizon, alpha)
    grown = n * r * r + 1
    log_ratio = (r * n * effect / deviation) ** 2 / (2 * grown) - 0.5 * math.log(grown)
    return min(1.0, math.exp(-log_ratio)) if log_ratio > -700 else 1.0


def more_until(effect: float, n: int, deviation: float, horizon: float, alpha: float = 0.05) -> int | None:
    """Further values until the interval around ``effect`` would leave 0; None = not within a thousand times as many."""
    if effect == 0:
        return None
    low, high = n, n
    while half_width(high, deviation, horizon, alpha) >= abs(effect):
        low, high = high, 2 * high
        if high > 1000 * max(n, 1):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if half_width(middle, deviation, horizon, alpha) >= abs(effect) else (low, middle)
    return high - n
