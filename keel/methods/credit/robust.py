"""Group distributionally robust optimisation: prompts fall into groups, and the group that does worst counts most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.types import Group, Unit

_LEAST = 1e-12


def next_weights(weights: Mapping[str, float], losses: Mapping[str, float], step: float) -> dict[str, float]:
    """``q_g <- q_g exp(step * loss_g)``, made to sum to 1 (Sagawa et al. 2020, arXiv:1911.08731, algorithm 1). A group without a loss in
    this batch keeps its share beside the others before they are made to sum to 1. No weight falls so low that it could not come back."""
    logs = {name: math.log(max(q, _LEAST)) + step * losses.get(name, 0.0) for name, q in weights.items()}
    most = max(logs.values())  # taken off, so that no exponential is too large
    raised = {name: math.exp(value - most) for name, value in logs.items()}
    total = sum(raised.values())
    return {name: value / total for name, value in raised.items()}


@dataclass(slots=True)
class GroupWeights:
    """The weights of a run's groups; part of its checkpoints. Each prompt's group is its extra column ``by``."""

    by: str
    step: float
    weights: dict[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def of(cls, by: str, step: float, names: Sequence[str]) -> GroupWeights:
        """All the same at first."""
        found = sorted(set(names))
        return cls(by, step, {name: 1.0 / len(found) for name in found})

    def weigh(self, groups: Sequence[Group], units: Sequence[Unit]) -> tuple[tuple[Unit, ...], dict[str, float]]:
        """Follow a step's rewards, the loss of a group being minus its mean reward, and give each unit's advantages its group's weight
        times the number of groups: equal weights change nothing. With metrics ``robust/{weight,reward}/GROUP`` and ``robust/worst``."""
        sums: dict[str, list[float]] = {}
        for group in groups:
            known = [float(reward) for reward, ok in zip(group.rewards_G, group.valid_G, strict=True) if bool(ok)]
            sums.setdefault(str(group.prompt.meta[self.by]), []).extend(known)
        means = {name: sum(rewards) / len(rewards) for name, rewards in sums.items() if rewards}
        self.weights = next_weights(self.weights, {name: -mean for name, mean in means.items()}, self.step)
        told = {f"robust/weight/{name}": q for name, q in self.weights.items()}
        told |= {f"robust/reward/{name}": mean for name, mean in means.items()}
        told |= {"robust/worst": min(means.values())} if means else {}
        return tuple(_weighed(unit, self.weights[str(unit.meta[self.by])] * len(self.weights)) for unit in units), told

    def state(self) -> dict[str, Any]:
        return dict(self.weights)

    def load_state(self, state: Mapping[str, float]) -> None:
        self.weights = {name: float(q) for name, q in state.items()}


def _weighed(unit: Unit, weight: float) -> Unit:
    branches = (replace(b, signals={**b.signals, "advantages": b.signals["advantages"] * weight}) for b in unit.branches)
    return replace(unit, branches=tuple(branches))
