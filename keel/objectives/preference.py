"""Direct preference optimisation: one objective for every loss of two sequences' log-ratios to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from keel.losses.preference import dpo
from keel.losses.reduce import sequence_sums
from keel.objectives.common import divisor, edges, to_metrics, total_weight
from keel.types import Batch, Counts, LossOutput, Need, Outputs, Unit

PairLoss = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
"""(winner_E, loser_E, label_E, beta, label_smoothing) -> loss_E, of summed log-ratios to the reference."""


@dataclass(frozen=True, slots=True)
class PreferenceObjective:
    """Weighted mean over preferences of ``pair_loss``. Needs the signal ``ref_logprobs``. Margins of the data are not used (plain DPO).

    Metrics, means over preferences: ``rewards/chosen`` and ``rewards/rejected`` (beta times the log-ratio to the reference),
    ``rewards/margins``, ``rewards/accuracies`` (ties left out), ``logps/chosen`` and ``logps/rejected`` (summed over tokens).
    """

    pair_loss: PairLoss = dpo
    beta: float = 0.1
    label_smoothing: float = 0.0

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs"})

    @property
    def token_local(self) -> bool:
        return False

    @property
    def couples_branches(self) -> bool:
        return True

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {"pairs": total_weight(units)}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        pairs = edges(batch.units, outputs.logprobs_S.device)
        logps_R = sequence_sums(outputs.logprobs_S, batch.branch_S, batch.n_branches)
        ratio_R = logps_R - sequence_sums(batch.signals["ref_logprobs"], batch.branch_S, batch.n_branches)
        winner_E, loser_E = ratio_R[pairs.winner_E], ratio_R[pairs.loser_E]
        losses_E = self.pair_loss(winner_E, loser_E, pairs.label_E, self.beta, self.label_smoothing)
        n = float(len(winner_E))
        lead_E = self.beta * (winner_E - loser_E).detach()
        metrics = {
            "rewards/chosen": (self.beta * winner_E.sum(), n),
            "rewards/rejected": (self.beta * loser_E.sum(), n),
            "rewards/margins": (lead_E.sum(), n),
            "rewards/accuracies": pairs.agree(lead_E),
            "logps/chosen": (logps_R[pairs.winner_E].sum(), n),
            "logps/rejected": (logps_R[pairs.loser_E].sum(), n),
        }
        return LossOutput((pairs.weight_E * losses_E).sum() / divisor(counts, "pairs"), to_metrics(metrics))
