"""Policy objectives of RL: a loss per token, a ratio per token or per sequence, a KL term and an entropy bonus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from keel.losses.kl import k3
from keel.losses.policy import PolicyTerms, ppo_clip
from keel.losses.reduce import REDUCTIONS, Reduction, sequence_means
from keel.objectives.common import TokenWeights, divisor, to_metrics, token_mean, token_weights
from keel.types import Batch, Counts, LossOutput, Need, Outputs, Unit

PolicyLoss = Callable[[Tensor, Tensor, Tensor], PolicyTerms]
"""(logprobs_S, old_logprobs_S, advantages_S) -> terms per token."""
KLEstimator = Callable[[Tensor, Tensor], Tensor]
"""(logprobs_S, ref_logprobs_S) -> nats per token."""


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """``policy_loss + kl_coef * KL - entropy_coef * entropy``, all per token, all weighed by one reduction.

    Signals: ``advantages``; ``old_logprobs`` where recorded, else the log-probabilities of this very pass, detached (ratio exactly 1);
    ``ref_logprobs`` for a KL term; ``sampler_logprobs`` for diagnosis.

    ``ratio="sequence"`` replaces log-probabilities by their mean over the sequence before the loss: the length-normalised sequence ratio of
    GSPO (Zheng et al. 2025, arXiv:2507.18071, eq. 7); its sequences must not be split.

    Metrics, means over tokens: ``entropy``, ``kl`` (k3 to the reference, nats per token), ``clip_ratio/{low,high,region}_mean``,
    ``policy/approxkl_avg`` (half the mean squared log-ratio to the old policy), ``policy/clipfrac_avg``, ``val/ratio``,
    ``sampling/importance_sampling_ratio/mean`` and ``sampling/sampling_logp_difference/mean`` (trainer against sampler); by the reduction:
    ``loss/policy_avg``.
    """

    policy_loss: PolicyLoss = ppo_clip
    reduction: Reduction = REDUCTIONS["per_token"]
    ratio: Literal["token", "sequence"] = "token"
    kl: KLEstimator | None = None  # in the loss
    kl_coef: float = 0.0
    entropy_coef: float = 0.0

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs", "entropy"})

    @property
    def token_local(self) -> bool:
        return self.ratio == "token"

    @property
    def couples_branches(self) -> bool:
        return self.reduction.couples_branches

    def counts(self, units: Sequence[Unit]) -> Counts:
        return {self.reduction.unit: self.reduction(units).count}

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        assert outputs.entropy_S is not None
        logprobs_S = outputs.logprobs_S
        old_logprobs_S = batch.signals.get("old_logprobs", logprobs_S.detach())
        terms = self.policy_loss(self._spread(logprobs_S, batch), self._spread(old_logprobs_S, batch), batch.signals["advantages"])
        losses_S = terms.loss_S
        if self.kl is not None:
            losses_S = losses_S + self.kl_coef * self.kl(logprobs_S, batch.signals["ref_logprobs"])
        if self.entropy_coef:
            losses_S = losses_S - self.entropy_coef * outputs.entropy_S
        weights = token_weights(batch, self.reduction)
        loss = (weights.weights_S * losses_S).sum() / divisor(counts, self.reduction.unit)
        with torch.no_grad():
            return LossOutput(loss, _metrics(batch, outputs.entropy_S, logprobs_S, old_logprobs_S, terms, weights))

    def _spread(self, logprobs_S: Tensor, batch: Batch) -> Tensor:
        """What the ratio is formed of: each token's own log-probability, or its sequence's mean."""
        if self.ratio == "token":
            return logprobs_S
        return sequence_means(logprobs_S, batch.branch_S, batch.n_branches)[batch.branch_S]


def _metrics(
    batch: Batch, entropy_S: Tensor, logprobs_S: Tensor, old_logprobs_S: Tensor, terms: PolicyTerms, weights: TokenWeights
) -> dict[str, tuple[float, float]]:
    region_S = (terms.low_S | terms.high_S).float()
    step_S = logprobs_S - old_logprobs_S
    metrics = {
        "loss/policy_avg": weights.mean(terms.loss_S),
        "entropy": token_mean(entropy_S),
        "clip_ratio/low_mean": token_mean(terms.low_S.float()),
        "clip_ratio/high_mean": token_mean(terms.high_S.float()),
        "clip_ratio/region_mean": token_mean(region_S),
        "policy/clipfrac_avg": token_mean(region_S),
        "policy/approxkl_avg": token_mean(0.5 * step_S.square()),
        "val/ratio": token_mean(step_S.exp()),
    }
    if "ref_logprobs" in batch.signals:
        metrics["kl"] = token_mean(k3(logprobs_S, batch.signals["ref_logprobs"]))
    if "sampler_logprobs" in batch.signals:
        apart_S = old_logprobs_S - batch.signals["sampler_logprobs"]
        metrics["sampling/importance_sampling_ratio/mean"] = token_mean(apart_S.exp())
        metrics["sampling/sampling_logp_difference/mean"] = token_mean(apart_S.abs())
    return to_metrics(metrics)
