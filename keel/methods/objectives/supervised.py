"""Supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from keel.methods.math.imitation import negative_log_likelihood
from keel.methods.math.reduce import REDUCTIONS, Reduction
from keel.methods.objectives.common import Reduced, divisor, to_metrics, token_mean, token_weights
from keel.types import Batch, Counts, LossOutput, Need, Outputs


@dataclass(frozen=True, slots=True)
class SupervisedObjective(Reduced):
    """Mean negative log-likelihood of the trained tokens, in nats. Metric: ``nll`` per token, however the loss is reduced (the
    perplexity is its exponential)."""

    reduction: Reduction = REDUCTIONS["per_token"]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs"})

    @property
    def token_local(self) -> bool:
        return True

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        nll_S = negative_log_likelihood(outputs.logprobs_S)
        weights = token_weights(batch, self.reduction)
        loss = (weights.weights_S * nll_S).sum() / divisor(counts, self.reduction.unit)
        return LossOutput(loss, to_metrics({"nll": token_mean(nll_S)}))
