"""Training of reward models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keel.losses.reward import bradley_terry, centring
from keel.objectives.common import divisor, edges, to_metrics, total_weight
from keel.types import Batch, Counts, LossOutput, Need, Outputs, Unit


@dataclass(frozen=True, slots=True)
class BradleyTerryObjective:
    """Weighted mean over preferences of the Bradley-Terry loss, soft labels included, plus ``centring`` times the squared sum of a pair's
    scores. ``margin`` nats of lead are asked for per unit of the data's margin.

    Metrics: ``accuracy`` over pairs that are no ties, ``margin`` (score of the winner minus the loser's), ``mean_reward`` over answers.
    """

    centring: float = 0.0
    margin: float = 0.0

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"scores"})

    @property
    def token_local(self) -> bool:
        return False

    @property
    def couples_branches(self) -> bool:
        return True

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {"pairs": total_weight(units)}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.scores_R is not None
        pairs = edges(batch.units, outputs.scores_R.device)
        winner_E, loser_E = outputs.scores_R[pairs.winner_E], outputs.scores_R[pairs.loser_E]
        losses_E = bradley_terry(winner_E, loser_E, pairs.label_E, self.margin * pairs.margin_E)
        if self.centring:
            losses_E = losses_E + self.centring * centring(winner_E, loser_E)
        lead_E = (winner_E - loser_E).detach()
        metrics = {
            "accuracy": pairs.agree(lead_E),
            "margin": (lead_E.sum(), float(len(lead_E))),
            "mean_reward": (outputs.scores_R.sum(), float(batch.n_branches)),
        }
        return LossOutput((pairs.weight_E * losses_E).sum() / divisor(counts, "pairs"), to_metrics(metrics))
