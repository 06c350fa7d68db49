"""Sums of direct preference losses, and the likelihood of the preferred answer as one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from keel.methods.math.imitation import negative_log_likelihood
from keel.methods.math.reduce import sequence_sums
from keel.methods.objectives.common import ScoreUnits, WholeAnswers, lengths, measured, to_metrics
from keel.methods.objectives.preference import answers
from keel.types import Batch, Counts, LossOutput, Need, Objective, Outputs, Unit


class DirectObjective(Objective, Protocol):
    """An objective of direct preference optimisation: what the stage must prepare for it."""

    @property
    def needs_reference(self) -> bool: ...

    @property
    def needs_strangers(self) -> bool: ...

    @property
    def needs_contrast(self) -> bool: ...

    @property
    def takes_answers(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ImitationObjective(WholeAnswers):
    """Weighted mean of the preferred answers' negative log-likelihood, each answer the mean over its tokens: the term that "adds SFT" to
    another loss. An answer counts by the probability that it is the preferred one. Metric: ``nll``, nats per token."""

    @property
    def takes_answers(self) -> bool:
        return True

    def counts(self, units: Sequence[Unit]) -> Counts:
        found = answers(units, torch.device("cpu"))
        return {"imitated": float((found.weight_A * found.wanted_A).double().sum())}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        found = answers(batch.units, outputs.logprobs_S.device)
        nll_R = sequence_sums(negative_log_likelihood(outputs.logprobs_S), batch.branch_S, batch.n_branches)
        nll_A = (nll_R / lengths(batch).to(nll_R))[found.branch_A]
        share_A = found.weight_A * found.wanted_A
        total = (share_A * nll_A).sum()
        # a batch without any wanted answer has nothing to imitate, and its sum is 0
        return LossOutput(total / (counts["imitated"] or 1.0), to_metrics({"nll": (total, share_A.sum())}))


@dataclass(frozen=True, slots=True)
class Part:
    """A loss in a sum."""

    name: str
    weight: float
    objective: DirectObjective


@dataclass(frozen=True, slots=True)
class MixtureObjective(WholeAnswers):
    """``sum_i weight_i loss_i`` (Wang et al. 2024, arXiv:2411.10442: preference, quality and generation losses).

    Metrics of all parts; where two have the same one, the first part's. Each part's loss is ``loss/NAME``, before its weight.
    """

    parts: tuple[Part, ...]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(p.objective.needs for p in self.parts))

    @property
    def needs_reference(self) -> bool:
        """Some part does."""
        return any(p.objective.needs_reference for p in self.parts)

    @property
    def needs_strangers(self) -> bool:
        """Some part does."""
        return any(p.objective.needs_strangers for p in self.parts)

    @property
    def needs_contrast(self) -> bool:
        """Some part does."""
        return any(p.objective.needs_contrast for p in self.parts)

    @property
    def takes_answers(self) -> bool:
        """Every part does."""
        return all(p.objective.takes_answers for p in self.parts)

    def measured(self, units: Sequence[Unit], logprobs: ScoreUnits) -> MixtureObjective:
        """With every part's numbers of ``units`` under the present weights."""
        return replace(self, parts=tuple(replace(p, objective=measured(p.objective, units, logprobs)) for p in self.parts))

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {f"{p.name}/{key}": value for p in self.parts for key, value in p.objective.counts(units).items()}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        total: Tensor | float = 0.0
        metrics: dict[str, tuple[float, float]] = {}
        for part in self.parts:
            own = {key.removeprefix(f"{part.name}/"): n for key, n in counts.items() if key.startswith(f"{part.name}/")}
            output = part.objective.loss(batch, outputs, own)
            total = total + part.weight * output.loss
            (whole,), (here,) = own.values(), part.objective.counts(batch.units).values()
            metrics = {f"loss/{part.name}": (float(output.loss.detach()) * whole, here), **output.metrics, **metrics}
        assert isinstance(total, Tensor)
        return LossOutput(total, metrics)
