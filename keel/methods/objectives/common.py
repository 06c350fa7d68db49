"""What objectives share: weights of the scored tokens, edges of the units' preferences, metrics in one transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.methods.math.reduce import Reduction, trained_lengths
from keel.types import Batch, Counts, Edge, Need, Objective, PairTarget, Unit

ScoreUnits = Callable[[Sequence[Unit]], list[tuple[Tensor, ...]]]
"""Log-probabilities per unit and branch [T] under the present weights, without gradient: a learner's ``logprobs``."""


class Reduced:
    """What objectives have in common whose loss is a sum over tokens, weighed and counted by a reduction."""

    __slots__ = ()
    reduction: Reduction

    @property
    def couples_branches(self) -> bool:
        return self.reduction.couples_branches

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {self.reduction.unit: self.reduction(units).count}


class WholeAnswers:
    """What objectives of whole answers have in common, unless they say otherwise: they read log-probabilities, and the branches of a unit
    must stay together. Those of direct preference optimisation also tell what the stage must prepare."""

    __slots__ = ()

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs"})

    @property
    def token_local(self) -> bool:
        return False

    @property
    def couples_branches(self) -> bool:
        return True

    @property
    def needs_reference(self) -> bool:
        """Units must carry the signal ``ref_logprobs``."""
        return False

    @property
    def needs_strangers(self) -> bool:
        """Units must carry answers to other prompts in ``meta["stranger"]``."""
        return False

    @property
    def needs_contrast(self) -> bool:
        """Some units must have a contrast."""
        return False

    @property
    def takes_answers(self) -> bool:
        """Learns from single answers with labels too."""
        return False


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """For the scored tokens of a batch (or of a slice of it): factors of their losses, and their parts of the count."""

    weights_S: Tensor  # float32 [S]
    shares_S: Tensor  # float32 [S]

    def mean(self, losses_S: Tensor) -> tuple[Tensor, Tensor]:
        """(sum, count) of per-token losses under the reduction, for a metric."""
        return (self.weights_S * losses_S).sum(), self.shares_S.sum()


def token_weights(batch: Batch, reduction: Reduction) -> TokenWeights:
    """Weights of the scored tokens. Lengths come from the units, so a narrowed batch weighs its tokens as the whole one does."""
    weights = reduction(batch.units)
    device = batch.branch_S.device
    per_branch = torch.stack([weights.weights_R, weights.shares_R]).float().to(device)
    weights_S, shares_S = per_branch[:, batch.branch_S]
    return TokenWeights(weights_S, shares_S)


def divisor(counts: Counts, name: str) -> float:
    """The count of the whole optimizer batch; a batch in which nothing is counted must not reach the loss."""
    assert counts[name] > 0, f"the optimizer batch has no {name} to train on"
    return counts[name]


def to_metrics(values: Mapping[str, tuple[Tensor, Tensor | float]]) -> dict[str, tuple[float, float]]:
    """(sum, count) pairs of scalar tensors as floats, moved from the device at once."""
    if not values:
        return {}
    flat = [torch.as_tensor(x).detach() for pair in values.values() for x in pair]
    numbers = torch.stack([x.to(flat[0].device, torch.float64) for x in flat]).tolist()
    return {name: (numbers[2 * i], numbers[2 * i + 1]) for i, name in enumerate(values)}


def token_mean(values_S: Tensor) -> tuple[Tensor, float]:
    """(sum, count) of a plain mean over the scored tokens."""
    return values_S.sum(), float(values_S.shape[0])


@dataclass(frozen=True, slots=True)
class Edges:
    """All preferences of a batch; indices are into its branches R."""

    winner_E: Tensor  # int64 [E]
    loser_E: Tensor  # int64 [E]
    label_E: Tensor  # float32 [E]
    margin_E: Tensor  # float32 [E]
    weight_E: Tensor  # float32 [E]
    tie_E: Tensor  # float32 [E]: share of ties among the votes

    def agree(self, lead_E: Tensor) -> tuple[Tensor, Tensor]:
        """(number right, number judged): does the sign of ``lead_E`` say what the label says? Ties of the label are not judged, a lead of
        exactly 0 is half right."""
        judged_E = self.label_E != 0.5
        right_E = 0.5 * (1.0 + torch.sign(lead_E) * torch.sign(self.label_E - 0.5))
        return right_E[judged_E].sum(), judged_E.sum()


def edges(units: Sequence[Unit], device: torch.device) -> Edges:
    """The edges of the units' PairTargets, in order.

    Raises DataError for a unit without one: a preference loss cannot say anything about it.
    """
    winner: list[int] = []
    loser: list[int] = []
    numbers: list[tuple[float, float, float, float]] = []
    first = 0
    for unit in units:
        for edge in edges_of(unit):
            winner.append(first + edge.winner)
            loser.append(first + edge.loser)
            numbers.append((edge.label, edge.margin, edge.weight, edge.tie))
        first += len(unit.branches)
    label_E, margin_E, weight_E, tie_E = torch.tensor(numbers, dtype=torch.float32, device=device).reshape(-1, 4).T
    index = torch.tensor([winner, loser], dtype=torch.int64, device=device)
    return Edges(index[0], index[1], label_E, margin_E, weight_E, tie_E)


def total_weight(units: Sequence[Unit]) -> float:
    """The sum of all edges' weights: what a preference loss is a mean over."""
    return sum(edge.weight for unit in units for edge in edges_of(unit))


def edges_of(unit: Unit) -> tuple[Edge, ...]:
    """The unit's preferences. Raises DataError for a unit without any: a preference loss cannot say anything about it."""
    if not isinstance(unit.target, PairTarget):
        raise DataError(
            f"unit '{unit.unit_id}' has no preference between its answers",
            "this loss learns from pairs: give chosen and rejected",
        )
    return unit.target.edges


def lengths(batch: Batch) -> Tensor:
    """Trained tokens of each branch, at least 1: float32 [R]."""
    return trained_lengths(batch.units)[0].clamp(min=1.0).float().to(batch.branch_S.device)


def branch_sums(units: Sequence[Unit], tensors: Sequence[tuple[Tensor, ...]] | None = None) -> Tensor:
    """Sums over trained tokens, float64 [R], of ``tensors`` (per unit and branch [T]); without them, of the signal ``ref_logprobs``."""
    rows = tensors if tensors is not None else [tuple(b.signals["ref_logprobs"] for b in u.branches) for u in units]
    found = [
        value_T.double()[b.trained_T].sum() for u, row in zip(units, rows, strict=True) for b, value_T in zip(u.branches, row, strict=True)
    ]
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)


@runtime_checkable
class Measuring(Protocol):
    """An objective with numbers that come from the whole optimizer batch (a reference point, an order of pairs): they are constants of the
    step, taken before its first forward pass, so that the loss is still a sum over micro-batches."""

    def measured(self, units: Sequence[Unit], logprobs: ScoreUnits) -> Objective:
        """This objective with the numbers of ``units`` under the present weights."""
        ...


@runtime_checkable
class Crediting(Protocol):
    """An objective that gives the answers of the whole optimizer batch numbers of their own (advantages) before its first forward pass."""

    def credited(self, units: Sequence[Unit]) -> tuple[Unit, ...]:
        """The units with those numbers as signals."""
        ...


def credited(objective: Objective, units: Sequence[Unit]) -> Sequence[Unit]:
    """An optimizer batch with the signals that ``objective`` makes of it, where it makes any."""
    return objective.credited(units) if isinstance(objective, Crediting) else units


AnyObjective = TypeVar("AnyObjective", bound=Objective)


def measured(objective: AnyObjective, units: Sequence[Unit], logprobs: ScoreUnits) -> AnyObjective:
    """``objective`` with what it takes from the whole optimizer batch, where it takes anything."""
    return cast(AnyObjective, objective.measured(units, logprobs)) if isinstance(objective, Measuring) else objective
