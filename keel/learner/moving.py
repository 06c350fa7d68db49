"""A reference that follows the policy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from keel.methods.rl_parts import ReferenceRule
from keel.models.model import Model


class MovingReference:
    """Keeps ``model``, a frozen copy of ``policy``, on a moving average of its trained weights, or sets it to them every so many steps. The
    average itself is kept in float32, whatever the model computes in: an update of a hundredth would be lost in bfloat16."""

    def __init__(self, model: Model, policy: Model, rule: ReferenceRule) -> None:
        self._model, self._policy, self._rule = model, policy, rule
        self._weights = {name: p.clone() for name, p in policy.state_tensors().items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After ``step`` steps (1 is the first)."""
        if self._rule.kind == "refresh" and step % self._rule.every:
            return
        share = 1.0 - self._rule.decay if self._rule.kind == "ema" else 1.0
        for name, p in self._policy.state_tensors().items():
            self._weights[name].lerp_(p, share)
        self._model.set_weights(self._weights)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return self._weights

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from ``state()``."""
        for name, weight in self._weights.items():
            weight.copy_(tensors[name])
        self._model.set_weights(self._weights)
