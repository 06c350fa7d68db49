"""From a plan to numbers: bounds of the looks, how many units, what to expect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from keel.evaluate.ab import boundaries
from keel.evaluate.ab.config import PlanConfig
from keel.evaluate.statistics.distributions import NORMAL


@dataclass(frozen=True, slots=True)
class Design:
    """A test with planned looks. ``looks[k]`` units are there at look k, where |z| above ``bounds[k]`` stops it."""

    looks: tuple[int, ...]
    bounds: tuple[float, ...]
    fixed: int  # units of a test with a single look
    deviation: float  # of one unit's contribution to the effect
    expected_null: float  # units on average if there is no difference
    expected_effect: float  # and if the smallest effect that matters is there
    power: float

    @property
    def n(self) -> int:
        """Units in all."""
        return self.looks[-1]


@lru_cache(maxsize=64)
def _bounds(kind: str, shares: tuple[float, ...], alpha: float, power: float) -> tuple[tuple[float, ...], float]:
    if kind.startswith("lan_demets_"):
        found = boundaries.spending(boundaries.spent(kind.removeprefix("lan_demets_"), alpha), shares)
    else:
        found = boundaries.classic(kind, shares, alpha)
    return found, boundaries.drift_of(found, shares, power)


def design(plan: PlanConfig, alpha: float, deviation: float) -> Design:
    """The design of a plan. ``deviation`` is the standard deviation of a unit's contribution to the effect: of a win share offline, of
    ``outcome * sqrt(1 / share + 1 / (1 - share))`` online."""
    shares = plan.shares
    bounds, drift = _bounds(plan.boundary, shares, alpha, plan.power)
    n = max(math.ceil((drift * deviation / plan.min_effect) ** 2 - 1e-9), 2 * len(shares))
    fixed = math.ceil(((NORMAL.inv_cdf(1 - alpha / 2) + NORMAL.inv_cdf(plan.power)) * deviation / plan.min_effect) ** 2 - 1e-9)
    looks = tuple(max(2, math.ceil(n * share - 1e-9)) for share in shares)
    without, under = (_expected(looks, boundaries.crossing(bounds, shares, d)) for d in (0.0, drift))
    return Design(looks, bounds, fixed, deviation, without, under, plan.power)


def _expected(looks: tuple[int, ...], crossed: tuple[list[float], list[float]]) -> float:
    stopped = [u + d for u, d in zip(*crossed)][:-1]
    return sum(n * p for n, p in zip(looks, stopped)) + looks[-1] * (1 - sum(stopped))
