"""Training of the critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from keel.methods.math.reduce import REDUCTIONS, Reduction
from keel.methods.math.value import clipped_value
from keel.methods.objectives.common import Reduced, divisor, to_metrics, token_mean, token_weights
from keel.types import Batch, Counts, LossOutput, Need, Outputs


@dataclass(frozen=True, slots=True)
class ValueObjective(Reduced):
    """``coef`` times the mean clipped squared error of the values. Signals: ``values`` (of the critic when the returns were made) and
    ``returns``.

    Metrics: ``loss/value_avg`` (before ``coef``), ``val/clipfrac_avg``, ``critic/value_mean``.
    """

    clip: float = 0.2
    coef: float = 0.1
    reduction: Reduction = REDUCTIONS["per_token"]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"values"})

    @property
    def token_local(self) -> bool:
        return True

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.values_S is not None
        terms = clipped_value(outputs.values_S, batch.signals["values"], batch.signals["returns"], self.clip)
        weights = token_weights(batch, self.reduction)
        loss = self.coef * (weights.weights_S * terms.loss_S).sum() / divisor(counts, self.reduction.unit)
        with torch.no_grad():
            metrics = {
                "loss/value_avg": weights.mean(terms.loss_S),
                "val/clipfrac_avg": token_mean(terms.clipped_S.float()),
                "critic/value_mean": token_mean(outputs.values_S),
            }
            return LossOutput(loss, to_metrics(metrics))
