"""What the sources of reward have to do with one another: which pull the same way, which against each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keel.rewards.combine import pareto_front
from keel.types import Group

CONFLICT = -0.2  # a correlation below this is reported as a conflict


class Relations:
    """Sums of products of scores within groups (each group's mean taken off: what matters is which of a prompt's answers each source
    likes), over a run; and how often the sample with the best reward is one that no other beats."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.products_KK = torch.zeros(len(names), len(names), dtype=torch.float64)
        self.samples = self.best = self.best_on_front = self.on_front = 0

    def add(self, groups: Sequence[Group]) -> dict[str, float]:
        """Take a step's groups in. Returns the step's correlations by pair, those that are defined."""
        products_KK = torch.zeros_like(self.products_KK)
        for group in groups:
            if any(name not in group.parts for name in self.names) or int(group.valid_G.sum()) < 2:
                continue
            parts_KG = torch.stack([group.parts[name].double() for name in self.names])
            valid_KG = parts_KG[:, group.valid_G]
            centred_KG = valid_KG - valid_KG.mean(1, keepdim=True)
            products_KK += centred_KG @ centred_KG.T
            front_G = pareto_front(torch.where(group.valid_G, parts_KG, 0.0), group.valid_G)
            best = int(torch.where(group.valid_G, group.rewards_G, -torch.inf).argmax())
            self.samples += valid_KG.shape[1]
            self.on_front += int(front_G.sum())
            self.best += 1
            self.best_on_front += int(front_G[best])
        self.products_KK += products_KK
        return {f"composition/correlation/{pair}": r for pair, r in self._correlations(products_KK).items()}

    def _correlations(self, products_KK: Tensor) -> dict[str, float]:
        found: dict[str, float] = {}
        for i, j in itertools.combinations(range(len(self.names)), 2):
            scale = math.sqrt(float(products_KK[i, i] * products_KK[j, j]))
            if scale > 1e-12:
                found[f"{self.names[i]}~{self.names[j]}"] = float(products_KK[i, j]) / scale
        return found

    def summary(self) -> dict[str, Any]:
        """Correlations within groups, the pairs in conflict, the share of samples on their group's Pareto front, and how often the sample
        with the best reward is on it; {} with fewer than two sources or nothing seen."""
        if len(self.names) < 2 or not self.best:
            return {}
        correlations = self._correlations(self.products_KK)
        return {
            "correlations": correlations,
            "conflicts": [pair for pair, r in correlations.items() if r < CONFLICT],
            "pareto_share": self.on_front / self.samples,
            "best_on_front": self.best_on_front / self.best,
        }

    def state(self) -> dict[str, Any]:
        counts = [self.samples, self.on_front, self.best, self.best_on_front]
        return {"products": self.products_KK.tolist(), "counts": counts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.products_KK = torch.tensor(state["products"], dtype=torch.float64).reshape(len(self.names), len(self.names))
        self.samples, self.on_front, self.best, self.best_on_front = map(int, state["counts"])
