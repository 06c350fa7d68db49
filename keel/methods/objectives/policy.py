"""The policy objective of RL: a policy loss, a KL term and an entropy bonus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.methods.math.kl import LOG_RATIO_BOUND, bounded, by_kind, k3
from keel.methods.math.policy import POLICY_LOSSES, Correction, PolicyLoss, PolicyTerms, PolicyTokens, dual_clip, importance_weights
from keel.methods.math.reduce import REDUCTIONS, Reduction
from keel.methods.objectives.common import Reduced, TokenWeights, divisor, to_metrics, token_mean, token_weights
from keel.types import Batch, Counts, Divergence, LossOutput, Need, Outputs

KLEstimator = Callable[[Tensor, Tensor], Tensor]
"""(logprobs_S, ref_logprobs_S) -> nats per token."""
Metrics = Mapping[str, tuple[Tensor, Tensor | float]]


@dataclass(frozen=True, slots=True)
class PolicyObjective(Reduced):
    """``policy_loss + kl_coef * KL + old_kl_coef * KL(old || policy) - entropy_coef * entropy``, per token, weighed by one reduction.

    Signals: ``advantages``; ``old_logprobs`` where recorded, else the log-probabilities of this very pass, detached (ratio exactly 1);
    ``ref_logprobs`` for a KL term; ``sampler_logprobs`` for a correction and for diagnosis.

    The KL is an estimate ``kl`` from the sampled token alone, or the ``divergence`` of the whole distributions at its position. A
    divergence needs no signal; it needs the reference in the learner.

    ``policy_loss`` is a row of ``POLICY_LOSSES`` or a user's own, ``clip`` its band and ``ceiling`` that of ``dual_clip``. The sequences of
    a loss that is not ``local`` are never cut.

    ``correction`` multiplies the policy loss by importance weights between the old policy and the sampler (``methods.math.policy``). Masked
    tokens still count in the mean's denominator. With ``level="sequence"`` the sequences are never cut.

    ``old_kl_coef`` is the penalty of Schulman et al. 2017 (arXiv:1707.06347, eq. 8): KL(old || policy) by k3 of the old policy's tokens,
    whose gradient is exactly that of the KL.

    Metrics, means over tokens: ``entropy``, ``kl`` (k3 to the reference, nats per token) and ``kl/max`` (of one token),
    ``objective/divergence``, ``clip_ratio/{low,high,region}_mean``,
    ``policy/approxkl_avg`` (half the mean squared log-ratio to the old policy), ``policy/old_kl_avg`` (k3 of KL(old || policy), nats per
    token), ``policy/clipfrac_avg``, ``val/ratio``, ``policy/bounded_ratio`` (the share of tokens whose log-ratio to the old policy or
    the reference is beyond ``LOG_RATIO_BOUND``),
    ``sampling/importance_sampling_ratio/{mean,min,max}`` (trainer against sampler: the weights in use, after truncation or masking, each
    token's own ratio without a correction), where tokens have the signal ``grounded`` (1 or 0) ``policy/grounded_ratio`` and
    ``{kl,entropy}/{grounded,ungrounded}`` over the tokens of each kind, ``sampling/capped_ratio`` (the share above the cap) and
    ``sampling/sampling_logp_difference/{mean,max}`` (absolute, per token); by the reduction: ``loss/policy_avg``.
    """

    policy_loss: PolicyLoss = POLICY_LOSSES["ppo_clip"]
    reduction: Reduction = REDUCTIONS["per_token"]
    clip: tuple[float, float] = (0.2, 0.2)
    ceiling: float | None = None  # of the ratio of negative advantages
    kl: KLEstimator | None = None  # in the loss
    kl_coef: float = 0.0
    kl_kinds: tuple[float, float] = (1.0, 1.0)  # factors on it, of grounded tokens and of the others; others than 1 read ``grounded``
    divergence: Divergence | None = None  # in the loss, in place of ``kl``
    old_kl_coef: float = 0.0
    entropy_coef: float = 0.0
    correction: Correction | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"logprobs", "entropy"} if self.divergence is None else {"logprobs", "entropy", "divergence"})

    @property
    def token_local(self) -> bool:
        return self.divergence is None and self.policy_loss.local and (self.correction is None or self.correction.level == "token")

    def loss(self, batch: Batch, outputs: Outputs, counts: Counts) -> LossOutput:
        assert outputs.logprobs_S is not None
        assert outputs.entropy_S is not None
        logprobs_S = outputs.logprobs_S
        old_logprobs_S = batch.signals.get("old_logprobs", logprobs_S.detach())
        tokens = PolicyTokens(logprobs_S, old_logprobs_S, batch.signals["advantages"], batch.branch_S, batch.n_branches, *self.clip)
        loss_of = self.policy_loss.terms
        terms = loss_of(tokens) if self.ceiling is None else dual_clip(tokens, loss_of, self.ceiling)
        sampling, losses_S = self._against_sampler(old_logprobs_S, batch, terms.loss_S)
        if self.kl is not None:
            losses_S = losses_S + self._kl_price(batch) * self.kl(logprobs_S, batch.signals["ref_logprobs"])
        if self.divergence is not None:
            assert outputs.divergence_S is not None
            losses_S = losses_S + self._kl_price(batch) * outputs.divergence_S
        if self.old_kl_coef:
            losses_S = losses_S + self.old_kl_coef * k3(old_logprobs_S, logprobs_S)
        if self.entropy_coef:
            losses_S = losses_S - self.entropy_coef * outputs.entropy_S
        weights = token_weights(batch, self.reduction)
        loss = (weights.weights_S * losses_S).sum() / divisor(counts, self.reduction.unit)
        with torch.no_grad():
            ref_logprobs_S = batch.signals.get("ref_logprobs", outputs.ref_logprobs_S)
            metrics = _metrics(outputs.entropy_S, logprobs_S, old_logprobs_S, ref_logprobs_S, terms, weights)
            if outputs.divergence_S is not None:
                metrics["objective/divergence"] = token_mean(outputs.divergence_S)
            if "grounded" in batch.signals:
                metrics |= _metrics_by_kind(batch.signals["grounded"], outputs.entropy_S, logprobs_S, ref_logprobs_S)
            return LossOutput(loss, to_metrics({**metrics, **sampling}))

    def _kl_price(self, batch: Batch) -> Tensor | float:
        return self.kl_coef if self.kl_kinds == (1.0, 1.0) else self.kl_coef * by_kind(batch.signals["grounded"], self.kl_kinds)

    def _against_sampler(self, old_logprobs_S: Tensor, batch: Batch, losses_S: Tensor) -> tuple[Metrics, Tensor]:
        """The metrics of trainer against sampler, and the policy's losses under the importance weights."""
        if "sampler_logprobs" not in batch.signals:
            assert self.correction is None, "a correction needs the sampler's log-probabilities"
            return {}, losses_S
        sampler_S = batch.signals["sampler_logprobs"]
        apart_S = (old_logprobs_S - sampler_S).abs()
        metrics: dict[str, tuple[Tensor, Tensor | float]] = {}
        if self.correction is None:
            weights_S = torch.exp(bounded(old_logprobs_S - sampler_S))
        else:
            weights_S, capped_S = importance_weights(old_logprobs_S, sampler_S, batch.branch_S, batch.n_branches, self.correction)
            losses_S = weights_S * losses_S
            metrics["sampling/capped_ratio"] = token_mean(capped_S.float())
        name = "sampling/importance_sampling_ratio"
        metrics |= {f"{name}/mean": token_mean(weights_S), "sampling/sampling_logp_difference/mean": token_mean(apart_S)}
        if len(apart_S):
            metrics |= {f"{name}/min": (weights_S.min(), 1.0), f"{name}/max": (weights_S.max(), 1.0)}
            metrics["sampling/sampling_logp_difference/max"] = apart_S.max(), 1.0
        return metrics, losses_S


def _metrics_by_kind(grounded_S: Tensor, entropy_S: Tensor, logprobs_S: Tensor, ref_logprobs_S: Tensor | None) -> Metrics:
    """Entropy and KL of grounded tokens and of the others, each over its own tokens, and the share of the grounded ones."""
    of = {"entropy": entropy_S} | ({"kl": k3(logprobs_S, ref_logprobs_S)} if ref_logprobs_S is not None else {})
    kinds = {"grounded": grounded_S, "ungrounded": 1.0 - grounded_S}
    found = {f"{name}/{kind}": ((x_S * in_S).sum(), in_S.sum()) for name, x_S in of.items() for kind, in_S in kinds.items()}
    return found | {"policy/grounded_ratio": token_mean(grounded_S)}


def _metrics(
    entropy_S: Tensor, logprobs_S: Tensor, old_logprobs_S: Tensor, ref_logprobs_S: Tensor | None, terms: PolicyTerms, weights: TokenWeights
) -> dict[str, tuple[Tensor, Tensor | float]]:
    """Of the loss, the step from the old policy and, where there is one, the distance to the reference."""
    region_S = (terms.low_S | terms.high_S).float()
    step_S = logprobs_S - old_logprobs_S
    far_S = step_S.abs() > LOG_RATIO_BOUND
    metrics: dict[str, tuple[Tensor, Tensor | float]] = {
        "loss/policy_avg": weights.mean(terms.loss_S),
        "entropy": token_mean(entropy_S),
        "clip_ratio/low_mean": token_mean(terms.low_S.float()),
        "clip_ratio/high_mean": token_mean(terms.high_S.float()),
        "clip_ratio/region_mean": token_mean(region_S),
        "policy/clipfrac_avg": token_mean(region_S),
        "policy/approxkl_avg": token_mean(0.5 * step_S.square()),
        "policy/old_kl_avg": token_mean(k3(old_logprobs_S, logprobs_S)),
        "val/ratio": token_mean(bounded(step_S).exp()),
    }
    if ref_logprobs_S is not None:
        kl_S = k3(logprobs_S, ref_logprobs_S)
        far_S = far_S | ((logprobs_S - ref_logprobs_S).abs() > LOG_RATIO_BOUND)
        metrics["kl"] = token_mean(kl_S)
        if len(kl_S):
            metrics["kl/max"] = kl_S.max(), 1.0
    metrics["policy/bounded_ratio"] = token_mean(far_S.float())
    return metrics
