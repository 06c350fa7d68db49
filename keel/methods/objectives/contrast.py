"""Preference between prompts in place of answers: the preferred answer should be likelier behind its own prompt than behind the unit's
contrast, and likelier than under the reference. Two terms of mDPO (Wang et al. 2024, arXiv:2406.11839), where the contrast's prompt is
a corrupted one; the third is plain DPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.core.errors import DataError
from keel.methods.math.preference import dpo
from keel.methods.math.reduce import sequence_sums
from keel.methods.objectives.common import divisor, edges, edges_of, to_metrics
from keel.methods.objectives.preference import PairObjective
from keel.types import Batch, Counts, LossOutput, Outputs, PairTarget, Unit


@dataclass(frozen=True, slots=True)
class Contrasts:
    """The preferred answers of a batch that have a contrast; indices are into its branches R, one entry an edge."""

    own_C: Tensor  # int64 [C]: behind its own prompt
    other_C: Tensor  # int64 [C]: behind the contrast's
    weight_C: Tensor  # float32 [C]


def contrasts(units: Sequence[Unit], device: torch.device) -> Contrasts:
    """Of units that are followed by their contrasts (``learner.packing.with_contrasts``)."""
    own: list[int] = []
    other: list[int] = []
    weight: list[float] = []
    first = 0
    for k, unit in enumerate(units):
        if unit.contrast is not None:
            assert units[k + 1].unit_id == unit.contrast.unit_id, "a contrast is packed behind its unit"
            at = {winner: first + len(unit.branches) + i for i, winner in enumerate(PairTarget(edges_of(unit)).winners)}
            own += [first + edge.winner for edge in edges_of(unit)]
            other += [at[edge.winner] for edge in edges_of(unit)]
            weight += [edge.weight for edge in edges_of(unit)]
        first += len(unit.branches)
    index = torch.tensor([own, other], dtype=torch.int64, device=device).reshape(2, -1)
    return Contrasts(index[0], index[1], torch.tensor(weight, dtype=torch.float32, device=device))


def _refuse_ties(units: Sequence[Unit]) -> None:
    tie = next((u for u in units if any(e.label == 0.5 for e in edges_of(u))), None)
    if tie is not None:
        raise DataError(f"unit '{tie.unit_id}' holds a tie: neither answer is the preferred one", "leave ties out (data.ties=false)")


def _ratios(batch: Batch, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """(log-ratios to the reference, log-probabilities) of each branch [R]."""
    assert outputs.logprobs_S is not None
    logps_R = sequence_sums(outputs.logprobs_S, batch.branch_S, batch.n_branches)
    return logps_R - sequence_sums(batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches), logps_R


@dataclass(frozen=True, slots=True)
class ConditionalObjective(PairObjective):
    """Weighted mean over preferences whose unit has a contrast of ``-log sigma(beta (r - r'))``, ``r`` and ``r'`` the preferred answer's
    log-ratios to the reference behind its own prompt and behind the contrast's (L_CoPO of the paper). A batch without any adds 0.

    Metrics beside those of pairs: ``contrast/rewards`` (beta r'), ``contrast/margins`` (beta (r - r')), ``contrast/accuracies``.
    """

    @property
    def needs_contrast(self) -> bool:
        """Some units must have a contrast."""
        return True

    def counts(self, units: Sequence[Unit]) -> Counts:
        _refuse_ties(units)
        return {"contrasts": sum(edge.weight for u in units if u.contrast is not None for edge in edges_of(u))}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        ratio_R, logps_R = _ratios(batch, outputs)
        found = contrasts(batch.units, ratio_R.device)
        own_C, other_C = ratio_R[found.own_C], ratio_R[found.other_C]
        losses_C = dpo(own_C, other_C, torch.ones_like(own_C), torch.zeros_like(own_C), self.beta)
        n, lead_C = float(len(own_C)), self.beta * (own_C - other_C).detach()
        told = {
            "contrast/rewards": (self.beta * other_C.detach().sum(), n),
            "contrast/margins": (lead_C.sum(), n),
            "contrast/accuracies": ((0.5 * (1.0 + torch.sign(lead_C))).sum(), n),
        }
        metrics = {**self.metrics(edges(batch.units, ratio_R.device), ratio_R, logps_R), **to_metrics(told)}
        return LossOutput((found.weight_C * losses_C).sum() / (counts["contrasts"] or 1.0), metrics)


@dataclass(frozen=True, slots=True)
class AnchorObjective(PairObjective):
    """Weighted mean over preferences of ``-log sigma(beta r - gamma)``, ``r`` the preferred answer's log-ratio to the reference: it must
    not become less likely (L_AncPO of the paper, whose delta is ``gamma``)."""

    gamma: float = 0.0

    def counts(self, units: Sequence[Unit]) -> Counts:
        _refuse_ties(units)
        return {"pairs": sum(edge.weight for unit in units for edge in edges_of(unit))}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        ratio_R, logps_R = _ratios(batch, outputs)
        pairs = edges(batch.units, ratio_R.device)
        winner_E = ratio_R[pairs.winner_E]
        losses_E = dpo(winner_E, torch.zeros_like(winner_E), torch.ones_like(winner_E), torch.full_like(winner_E, self.gamma), self.beta)
        metrics = self.metrics(pairs, ratio_R, logps_R)
        return LossOutput((pairs.weight_E * losses_E).sum() / divisor(counts, "pairs"), metrics)
