"""Pure functions from the scores of several sources to one reward, and measures of how the sources go together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keel.methods.credit.estimators import group_normalised
from keel.types import Group


def weighted_sum(parts_KG: Tensor, weights_KG: Tensor) -> Tensor:
    """``sum_k w_k r_k``. float [K, G] each -> [G]."""
    return (weights_KG * parts_KG).sum(0)


def product(parts_KG: Tensor, weights_KG: Tensor, floor: float) -> Tensor:
    """``prod_k max(r_k, floor) ^ w_k``, for scores of 0 and above; a weight of 0 leaves a source out. float [K, G] each -> [G]."""
    return (weights_KG * parts_KG.clamp(min=floor).log()).sum(0).exp()


def worst(parts_KG: Tensor, weights_KG: Tensor) -> Tensor:
    """``min_k w_k r_k`` over the sources whose weight is not 0; 0 when there is none. float [K, G] each -> [G]."""
    weighted_KG = torch.where(weights_KG != 0, weights_KG * parts_KG, torch.inf)
    worst_G = weighted_KG.min(0).values
    return torch.where(torch.isfinite(worst_G), worst_G, 0.0)


def normalised(parts_KG: Tensor, valid_G: Tensor) -> Tensor:
    """Each source's scores normalised within the group, over its valid samples: ``(r - mean) / (std + eps)``, the first step of GDPO
    (Liu et al. 2026, arXiv:2601.05242); 0 where invalid. float [K, G], bool [G] -> [K, G]."""
    result_KG = torch.zeros_like(parts_KG)
    n = int(valid_G.sum())
    if n:
        one_group = torch.zeros(n, dtype=torch.int64)
        result_KG[:, valid_G] = torch.stack([group_normalised(row[valid_G], one_group) for row in parts_KG])
    return result_KG


def lagrangian(base_G: Tensor, parts_CG: Tensor, levels_C: Tensor, multipliers_C: Tensor) -> Tensor:
    """``(base + sum_c lambda_c (r_c - level_c)) / (1 + sum_c lambda_c)``: the objective of a constrained problem, its scale kept while the
    multipliers grow (Dai et al. 2023, arXiv:2310.12773, section 3.3). float [G], [C, G], [C], [C] -> [G]."""
    slack_CG = parts_CG - levels_C[:, None]
    return (base_G + (multipliers_C[:, None] * slack_CG).sum(0)) / (1.0 + multipliers_C.sum())


def next_multiplier(multiplier: float, mean: float, level: float, lr: float, high: float) -> float:
    """Projected ascent on the dual: up by ``lr`` for each unit that the mean is under its level, down when it is above; in [0, high]."""
    return min(max(multiplier + lr * (level - mean), 0.0), high)


def next_log_weights(log_weights_K: Tensor, lacking_K: Tensor, factor: float, entropy: float) -> Tensor:
    """Log-weights after a step: ``log(factor)`` more where a source lacks, then drawn to their mean by the share ``entropy``, so that none
    dies out. float [K], bool [K] -> [K]."""
    moved_K = log_weights_K + lacking_K * torch.log(torch.tensor(factor, dtype=log_weights_K.dtype))
    mean = moved_K.mean()
    return mean + (1.0 - entropy) * (moved_K - mean)


def pareto_front(parts_KG: Tensor, valid_G: Tensor) -> Tensor:
    """Which valid samples no other valid one of the group beats: at least as good by every source, better by one. bool [G]."""
    at_least_GG = (parts_KG[:, :, None] >= parts_KG[:, None, :]).all(0)  # [i, j]: i is at least as good as j everywhere
    better_GG = (parts_KG[:, :, None] > parts_KG[:, None, :]).any(0)
    beaten_G = (at_least_GG & better_GG & valid_G[:, None]).any(0)
    return valid_G & ~beaten_G


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
