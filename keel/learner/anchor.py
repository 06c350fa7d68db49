"""Elastic weight consolidation (Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796): weights that mattered for earlier data are held
near where they were, each by how much it mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from keel.methods.objectives.supervised import SupervisedObjective
from keel.types import Unit

if TYPE_CHECKING:
    from keel.learner.local import LocalLearner

Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Anchor:
    """The term ``weight / 2 * sum_i F_i (theta_i - theta*_i)^2`` of the loss (equation 3 of the paper; ``weight`` is its lambda).

    ``start`` is theta*, ``fisher`` the diagonal F, both by parameter's name, in the parameter's shape; F float32, not negative.
    """

    weight: float
    start: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]

    @torch.no_grad()
    def penalty(self, named: Named) -> float:
        """The term's value, in nats. Parameters that the anchor does not know are free."""
        parts = [(self.fisher[n] * (p.float() - self.start[n]) ** 2).sum().double().cpu() for n, p in named if n in self.fisher]
        return 0.5 * self.weight * float(torch.stack(parts).sum()) if parts else 0.0

    @torch.no_grad()
    def add_gradient(self, named: Named) -> None:
        """Add the term's gradient, ``weight * F_i (theta_i - theta*_i)``, to what the parameters have."""
        for name, p in named:
            if name not in self.fisher:
                continue
            pull = (self.weight * self.fisher[name] * (p.float() - self.start[name])).to(p.dtype)
            p.grad = pull if p.grad is None else p.grad.add_(pull)


def fisher_diagonal(learner: LocalLearner, units: Sequence[Unit]) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of ``units`` at the present weights, by name of a trained parameter: float32.

    The empirical one: ``sum_u (d log p(u) / d theta)^2 / tokens`` with the answers of the data, u one unit, the sum of its trained tokens.
    Divided by tokens it is what the curvature of the mean negative log-likelihood of a token is near to, so that a weight of 1 counts a
    token of the earlier data as much as one of the new. No dropout. Raises ValueError without units; leaves no gradients.
    """
    if not units:
        raise ValueError("no units to take the Fisher information of")
    objective, named = SupervisedObjective(), learner.trained
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named}
    tokens = 0
    temperature, learner.temperature = learner.temperature, 1.0
    try:
        with learner.plain_passes(learner.batch.microbatch_tokens):
            for unit in units:
                count = sum(int(b.trained_T.sum()) for b in unit.branches)
                if not count:
                    continue
                tokens += count
                learner.forward_backward([unit], objective)
                for name, p in named:
                    if p.grad is not None:
                        total[name] += (p.grad.float() * count) ** 2  # the loss is a mean over the unit's tokens
                learner.discard_gradients()
    finally:
        learner.temperature = temperature
        learner.discard_gradients()
    return {name: value / max(1, tokens) for name, value in total.items()}


def anchored(learner: LocalLearner, units: Sequence[Unit], weight: float) -> Anchor:
    """An anchor at the present weights."""
    fisher = fisher_diagonal(learner, units)
    return Anchor(weight, {name: p.detach().float().clone() for name, p in learner.trained}, fisher)
