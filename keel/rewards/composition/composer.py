"""How several rewards become one in the course of a run: weights by phase, by score or by need, multipliers of constraints, and what the
sources have to do with one another. What it learns is part of the checkpoint."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import ConfigError
from keel.rewards.composition import combine
from keel.rewards.composition.combine import Relations
from keel.rewards.composition.config import CompositionConfig
from keel.types import Group


class Composer:
    """``combine`` is a function of one group's scores and of what was learned so far; only ``learn`` changes that."""

    def __init__(self, config: CompositionConfig, weights: Mapping[str, float]) -> None:
        """``weights``: the rewards' own, by name. Raises ConfigError for a name in ``config`` that no reward has."""
        unknown = sorted(config.names() - set(weights))
        if unknown:
            raise ConfigError(
                f"composition names {', '.join(map(repr, unknown))}, and no reward is called that", f"rewards are: {', '.join(weights)}"
            )
        if config.learned is not None and min(weights.values()) <= 0:
            raise ConfigError("composition.learned shares weights out: every reward needs a weight above 0 to begin with")
        self.config, self.names, self.progress = config, list(weights), 0.0
        self.own_K = torch.tensor(list(weights.values()), dtype=torch.float64)
        self.multipliers = [c.start for c in config.constraints]
        self.log_weights_K = self.own_K.clamp(min=1e-12).log()
        self.recent: list[deque[float]] = [deque(maxlen=config.learned.window if config.learned is not None else 1) for _ in self.names]
        self.relations = Relations(self.names)

    def begin(self, progress: float) -> None:
        """A step starts, ``progress`` of the run (0 to 1) being over."""
        self.progress = progress

    def combine(self, parts: Mapping[str, Tensor], valid_G: Tensor) -> Tensor:
        """The reward of each sample of a group, float32 [G]; of invalid ones 0."""
        parts_KG = torch.stack([torch.where(valid_G, parts[name], 0.0).double() for name in self.names])
        weights_KG = self._weights(parts_KG)
        scores_KG = combine.normalised(parts_KG, valid_G) if self.config.normalise == "group" else parts_KG
        total_G = self._base(scores_KG, weights_KG)
        if self.config.constraints:
            rows = [self.names.index(c.source) for c in self.config.constraints]
            # the mean of normalised scores is 0: then a constraint weighs what is above the group's mean
            levels = [0.0 if self.config.normalise == "group" else c.at_least for c in self.config.constraints]
            multipliers_C = torch.tensor(self.multipliers, dtype=torch.float64)
            total_G = combine.lagrangian(total_G, scores_KG[rows], torch.tensor(levels, dtype=torch.float64), multipliers_C)
        return torch.where(valid_G, total_G, 0.0).float()

    def plain(self, parts: Mapping[str, Tensor], valid_G: Tensor) -> Tensor:
        """The reward by the rewards' own weights alone, float32 [G]: the same measure throughout a run, for evaluations."""
        parts_KG = torch.stack([torch.where(valid_G, parts[name], 0.0).double() for name in self.names])
        total_G = self._base(parts_KG, self.own_K[:, None].expand_as(parts_KG))
        return torch.where(valid_G, total_G, 0.0).float()

    def _base(self, parts_KG: Tensor, weights_KG: Tensor) -> Tensor:
        match self.config.how:
            case "sum":
                return combine.weighted_sum(parts_KG, weights_KG)
            case "product":
                return combine.product(parts_KG, weights_KG, self.config.floor)
            case "min":
                return combine.worst(parts_KG, weights_KG)

    def weights(self) -> dict[str, float]:
        """The weights of this moment, before any gate."""
        if self.config.learned is not None:
            shared_K = torch.softmax(self.log_weights_K, 0) * self.own_K.sum()
            return dict(zip(self.names, shared_K.tolist(), strict=True))
        own = dict(zip(self.names, self.own_K.tolist(), strict=True))
        phase = next((p for p in self.config.phases if self.progress < p.until), None)
        return {**own, **(phase.weights if phase is not None else {})}

    def _weights(self, parts_KG: Tensor) -> Tensor:
        """Weights of each sample, [K, G]."""
        weights_KG = torch.tensor(list(self.weights().values()), dtype=torch.float64)[:, None].expand_as(parts_KG).clone()
        gate = self.config.gate
        if gate is not None:
            low_G = parts_KG[self.names.index(gate.source)] < gate.threshold
            for chosen_G, table in ((low_G, gate.below), (~low_G, gate.above)):
                for name, weight in table.items():
                    weights_KG[self.names.index(name), chosen_G] = weight
        return weights_KG

    def learn(self, groups: Sequence[Group]) -> dict[str, float]:
        """Follow a step's groups, whose parts are those of the sources. Returns what held in this step: weights and multipliers where they
        move, and the correlations of the sources within groups."""
        metrics = {f"composition/weight/{name}": w for name, w in self.weights().items()} if self._weights_move() else {}
        for constraint, multiplier in zip(self.config.constraints, self.multipliers, strict=True):
            metrics[f"composition/multiplier/{constraint.source}"] = multiplier
        means = {name: _mean(groups, name) for name in self.names}
        self._follow(means)
        return metrics | self.relations.add(groups)

    def _weights_move(self) -> bool:
        return bool(self.config.phases) or self.config.learned is not None

    def _follow(self, means: Mapping[str, float]) -> None:
        for i, c in enumerate(self.config.constraints):
            if math.isfinite(means[c.source]):
                self.multipliers[i] = combine.next_multiplier(self.multipliers[i], means[c.source], c.at_least, c.lr, c.high)
        learned = self.config.learned
        if learned is None:
            return
        lacking = []
        for name, seen in zip(self.names, self.recent, strict=True):
            if math.isfinite(means[name]):
                seen.append(means[name])
            whole = len(seen) == learned.window and name in learned.levels
            lacking.append(whole and sum(seen) / len(seen) < learned.levels[name])
        self.log_weights_K = combine.next_log_weights(self.log_weights_K, torch.tensor(lacking), learned.factor, learned.entropy)

    def summary(self) -> dict[str, Any]:
        """How the sources went together over the run, and where weights and multipliers stand."""
        found: dict[str, Any] = self.relations.summary()
        if self._weights_move():
            found["weights"] = self.weights()
        if self.multipliers:
            found["multipliers"] = {c.source: m for c, m in zip(self.config.constraints, self.multipliers, strict=True)}
        return found

    def state(self) -> dict[str, Any]:
        return {
            "multipliers": list(self.multipliers),
            "log_weights": self.log_weights_K.tolist(),
            "recent": [list(seen) for seen in self.recent],
            "relations": self.relations.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.multipliers = [float(m) for m in state["multipliers"]]
        self.log_weights_K = torch.tensor(state["log_weights"], dtype=torch.float64)
        for seen, values in zip(self.recent, state["recent"], strict=True):
            seen.clear()
            seen.extend(values)
        self.relations.load_state(state["relations"])


def _mean(groups: Sequence[Group], name: str) -> float:
    known = torch.cat([g.parts[name][g.valid_G].double() for g in groups if name in g.parts] or [torch.zeros(0)])
    return float(known.mean()) if len(known) else math.nan
