"""How many runs begin, where they halt, how many go on, and what it costs. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keel.core.errors import ConfigError

TIMES = 20  # budget unless given, in trainings of the recipe's length


@dataclass(frozen=True, slots=True)
class Halt:
    """``runs`` of them are trained to ``steps`` and measured there."""

    steps: int
    runs: int


@dataclass(frozen=True, slots=True)
class Plan:
    """``halts``: of the search, with one seed. ``seeds`` new ones compare the best with the recipe's own settings at ``steps``."""

    halts: tuple[Halt, ...]
    steps: int
    seeds: int
    budget: int

    @property
    def runs(self) -> int:
        """How many settings are tried, the recipe's own among them."""
        return self.halts[0].runs

    @property
    def search_cost(self) -> int:
        return cost(self.halts)

    @property
    def compare_cost(self) -> int:
        return 2 * self.seeds * self.steps

    def to_json(self) -> dict[str, Any]:
        """``halts`` as (steps, runs), and the steps that each part takes."""
        halts = [[h.steps, h.runs] for h in self.halts]
        costs = {"search": self.search_cost, "compare": self.compare_cost}
        return {"halts": halts, "steps": self.steps, "seeds": self.seeds, "budget": self.budget, "cost": costs}


def rungs(steps: int, keep: int, first: int) -> list[int]:
    """Steps of the halts: ``first`` (0: ``steps / keep^2``), each further one ``keep`` times as far, the last at ``steps``."""
    at = first or math.ceil(steps / keep**2)
    found: list[int] = []
    while at < steps:
        found.append(at)
        at *= keep
    return [*found, steps]


def halving(n: int, at: list[int], keep: int) -> tuple[Halt, ...]:
    """Successive halving (Jamieson and Talwalkar 2015, arXiv:1502.07943; with ``keep`` as eta of Li et al. 2018, arXiv:1603.06560): one in
    ``keep`` goes on, rounded up. It ends where one is left."""
    found: list[Halt] = []
    for steps in at:
        found.append(Halt(steps, n))
        n = math.ceil(n / keep)
        if n == 1:
            break
    return tuple(found)


def cost(halts: tuple[Halt, ...]) -> int:
    """Steps that are trained: a run that goes on goes on from where it was."""
    before, whole = 0, 0
    for halt in halts:
        whole += halt.runs * (halt.steps - before)
        before = halt.steps
    return whole


def make_plan(steps: int, keep: int, first: int, seeds: int, budget: int, most: int | None = None) -> Plan:
    """The plan with the most runs that ``budget`` pays for. ``most``: so many different settings there are.

    Raises ConfigError where not even two settings can be tried and compared.
    """
    at = rungs(steps, keep, first)
    budget = budget or TIMES * steps
    left = budget - 2 * seeds * steps
    n = 1
    while (most is None or n < most) and cost(halving(n + 1, at, keep)) <= left:
        n += 1
    if n < 2:
        least = cost(halving(2, at, keep)) + 2 * seeds * steps
        raise ConfigError(
            f"tune.budget={budget} steps do not pay for two settings and their comparison on {seeds} seeds, which take {least}",
            "raise tune.budget, or lower loop.steps or tune.seeds",
        )
    return Plan(halving(n, at, keep), steps, seeds, budget)
