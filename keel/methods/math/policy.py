"""Policy losses: each is a function of sampled tokens and their advantages, and a row of ``POLICY_LOSSES``. A loss is minus what is to be
maximised.

A row says which settings its loss reads and how it may be computed. The rest follows from that: which settings are refused, whether
answers may be cut into tiles, how tokens may be averaged. Log-ratios are clamped to ``kl.LOG_RATIO_BOUND`` before ``exp``, where no clip
bounds the ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from keel.methods.math.checks import same_vectors
from keel.methods.math.kl import bounded
from keel.methods.math.reduce import sequence_means, sequence_sums


@dataclass(frozen=True, slots=True)
class PolicyTokens:
    """What a policy loss sees: the trained tokens S of a micro-batch, sequence after sequence. Never the whole optimizer batch."""

    logprobs_S: Tensor  # float [S], of the policy being trained: the only one with a gradient
    old_logprobs_S: Tensor  # float [S], of the policy at the first update on these rollouts, constants
    advantages_S: Tensor  # float [S], constants
    branch_S: Tensor  # int64 [S], the sequence of each token
    n_branches: int  # how many sequences there are; one of them may have no token here
    low: float  # clip.low and clip.high, for losses that clip
    high: float

    def __post_init__(self) -> None:
        same_vectors(self.logprobs_S, self.old_logprobs_S, self.advantages_S)
        assert self.branch_S.shape == self.logprobs_S.shape, "every token needs its sequence"

    def means(self, values_S: Tensor) -> Tensor:
        """For every token the mean of ``values_S`` over its sequence: float [S]."""
        return sequence_means(values_S, self.branch_S, self.n_branches)[self.branch_S]


class PolicyTerms(NamedTuple):
    """A policy loss per token and where its clip held the gradient back."""

    loss_S: Tensor  # float [S]
    low_S: Tensor  # bool [S]: the ratio fell below the band while the advantage was negative
    high_S: Tensor  # bool [S]: the ratio rose above the band while the advantage was positive (or above a ceiling, whatever it was)


def unclipped(loss_S: Tensor) -> PolicyTerms:
    """Terms of a loss that holds nothing back."""
    never_S = torch.zeros_like(loss_S, dtype=torch.bool)
    return PolicyTerms(loss_S, never_S, never_S)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """A row: a policy loss and its properties. A recipe that sets what the loss does not read is refused."""

    name: str
    terms: Callable[[PolicyTokens], PolicyTerms]
    clips: bool = True  # it reads clip.low and clip.high
    ratio: bool = True  # it compares the policy with the one that sampled, so the rollouts are good for more than one epoch
    explodes: bool = False  # a large ratio can blow it up: clip.dual bounds it, and one that does not clip needs a price on the KL
    local: bool = False  # a token's loss is a function of that token alone: sequences may be cut, and tiles be computed one by one
    by_sequence: bool = False  # the tokens of a sequence share one loss, which reduce=per_sequence alone counts once


def policy_gradient(tokens: PolicyTokens) -> PolicyTerms:
    """REINFORCE: ``-A_t log pi(y_t)``, the gradient of the expected reward (Williams 1992; Ahmadian et al. 2024, arXiv:2402.14740). Nothing
    is ever clipped, and the policy that sampled is not looked at."""
    return unclipped(-tokens.advantages_S * tokens.logprobs_S)


def ppo_clip(tokens: PolicyTokens) -> PolicyTerms:
    """``-min(rho A, clip(rho, 1 - low, 1 + high) A)`` with ``rho = pi / pi_old`` (Schulman et al. 2017, arXiv:1707.06347, eq. 7).
    ``high > low`` is clip-higher (DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.1)."""
    bottom, top, advantages_S = 1.0 - tokens.low, 1.0 + tokens.high, tokens.advantages_S
    ratio_S = torch.exp(bounded(tokens.logprobs_S - tokens.old_logprobs_S))
    loss_S = -torch.minimum(ratio_S * advantages_S, ratio_S.clamp(bottom, top) * advantages_S)
    return PolicyTerms(loss_S, (ratio_S < bottom) & (advantages_S < 0), (ratio_S > top) & (advantages_S > 0))


def surrogate(tokens: PolicyTokens) -> PolicyTerms:
    """``-rho A`` with ``rho = pi / pi_old`` and no clip (Schulman et al. 2017, arXiv:1707.06347, eq. 6). Something else has to hold the
    policy near the old one: the KL penalty of eq. 8."""
    return unclipped(-torch.exp(bounded(tokens.logprobs_S - tokens.old_logprobs_S)) * tokens.advantages_S)


def cispo(tokens: PolicyTokens) -> PolicyTerms:
    """``-sg(clip(rho, 1 - low, 1 + high)) A log pi``: the importance weight is clipped and held constant, so that every token keeps its
    gradient (CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5). ``low_S`` and ``high_S`` say where the weight was clipped, whatever the
    advantage.

    The paper sets no lower bound (``low = 1``) and tunes the upper one without naming it; a weight of at most 5 is what follow-up work
    used (ScaleRL, arXiv:2510.13786).
    """
    bottom, top = 1.0 - tokens.low, 1.0 + tokens.high
    ratio_S = torch.exp(tokens.logprobs_S - tokens.old_logprobs_S).detach()
    loss_S = -ratio_S.clamp(bottom, top) * tokens.advantages_S * tokens.logprobs_S
    return PolicyTerms(loss_S, ratio_S < bottom, ratio_S > top)


def gspo(tokens: PolicyTokens) -> PolicyTerms:
    """``ppo_clip`` of one ratio a sequence, ``s = (pi(y) / pi_old(y))^(1 / |y|)``: the geometric mean of its tokens' (GSPO, Zheng et al.
    2025, arXiv:2507.18071, section 4.1)."""
    mean_S, old_mean_S = tokens.means(tokens.logprobs_S), tokens.means(tokens.old_logprobs_S)
    return ppo_clip(replace(tokens, logprobs_S=mean_S, old_logprobs_S=old_mean_S))


def gspo_token(tokens: PolicyTokens) -> PolicyTerms:
    """The value of ``gspo`` with each token's own gradient, ``s_t = sg(s) pi_t / sg(pi_t)``, so that advantages may differ within a
    sequence (GSPO-token, arXiv:2507.18071, section 4.3)."""
    mean_S, old_mean_S = tokens.means(tokens.logprobs_S.detach()), tokens.means(tokens.old_logprobs_S)
    own_S = mean_S + (tokens.logprobs_S - tokens.logprobs_S.detach())  # exactly the mean: the brackets matter
    return ppo_clip(replace(tokens, logprobs_S=own_S, old_logprobs_S=old_mean_S))


def gmpo(tokens: PolicyTokens) -> PolicyTerms:
    """``-A (prod_t c_t)^(1 / |y|)``: one ratio a sequence, the geometric mean of token ratios that are clipped one by one, in log space:
    ``log c = min(log rho, high)`` where ``A > 0``, ``max(log rho, -low)`` where ``A < 0`` (GMPO, Zhao et al. 2025, arXiv:2507.20673,
    section 3, whose band is e^-0.4 to e^0.4: ``low`` and ``high`` are logarithms here)."""
    log_ratio_S, advantages_S = tokens.logprobs_S - tokens.old_logprobs_S, tokens.advantages_S
    below_S, above_S = log_ratio_S.clamp(max=tokens.high), log_ratio_S.clamp(min=-tokens.low)
    kept_S = torch.where(torch.signbit(advantages_S), above_S, below_S)
    loss_S = -advantages_S * torch.exp(bounded(tokens.means(kept_S)))
    return PolicyTerms(loss_S, (log_ratio_S < -tokens.low) & (advantages_S < 0), (log_ratio_S > tokens.high) & (advantages_S > 0))


SAPO_TAU = 1.0, 1.05  # of positive and of negative advantages: the paper's


def sapo(tokens: PolicyTokens) -> PolicyTerms:
    """``-f(rho) A`` with the soft gate ``f(rho) = 4 / tau sigma(tau (rho - 1))``, ``tau`` by the sign of A (SAPO, Gao et al. 2025,
    arXiv:2511.20347, eq. 5 and 6). Its slope is 1 at a ratio of 1, falls on both sides and is never quite 0: nothing is clipped."""
    ratio_S = torch.exp(bounded(tokens.logprobs_S - tokens.old_logprobs_S))
    positive, negative = ratio_S.new_tensor(SAPO_TAU)
    tau_S = torch.where(torch.signbit(tokens.advantages_S), negative, positive)
    return unclipped(-4.0 / tau_S * torch.sigmoid(tau_S * (ratio_S - 1.0)) * tokens.advantages_S)


POLICY_LOSSES: dict[str, PolicyLoss] = {
    row.name: row
    for row in (
        PolicyLoss("ppo_clip", ppo_clip, explodes=True, local=True),
        PolicyLoss("cispo", cispo, local=True),
        PolicyLoss("surrogate", surrogate, clips=False, explodes=True, local=True),
        PolicyLoss("policy_gradient", policy_gradient, clips=False, ratio=False, local=True),
        PolicyLoss("gspo", gspo, explodes=True, by_sequence=True),
        PolicyLoss("gspo_token", gspo_token, explodes=True),
        PolicyLoss("gmpo", gmpo, explodes=True, by_sequence=True),
        PolicyLoss("sapo", sapo, clips=False, local=True),
    )
}


def dual_clip(tokens: PolicyTokens, loss: Callable[[PolicyTokens], PolicyTerms], ceiling: float) -> PolicyTerms:
    """``max(objective, c A)`` where ``A < 0``: a bad token that has become much likelier cannot blow the loss up (Ye et al. 2020,
    arXiv:1912.09729, eq. 5; c = 3 there).

    Args:
        tokens: what ``loss`` sees.
        loss: the loss to bound, one that a large ratio can blow up.
        ceiling: c > 1, the ratio above which a negative advantage stops counting more.

    Returns:
        PolicyTerms; ``high_S`` also where the ceiling holds the gradient back.
    """
    assert ceiling > 1.0, "a ceiling at or below a ratio of 1 would switch negative advantages off"
    terms, most_S = loss(tokens), -ceiling * tokens.advantages_S
    held_S = (tokens.advantages_S < 0) & (terms.loss_S > most_S)
    return PolicyTerms(torch.where(held_S, most_S, terms.loss_S), terms.low_S, terms.high_S | held_S)


@dataclass(frozen=True, slots=True)
class Correction:
    """How the weight ``pi / pi_sampler`` enters the loss."""

    kind: Literal["truncate", "mask"]  # a weight above the cap counts as the cap, or as 0
    level: Literal["token", "sequence"] = "token"  # each token's own ratio, or the product over its sequence
    cap: float = 3.0


def importance_weights(
    logprobs_S: Tensor, sampler_logprobs_S: Tensor, branch_S: Tensor, n_branches: int, correction: Correction
) -> tuple[Tensor, Tensor]:
    """``min(rho, C)`` (truncated importance sampling, Espeholt et al. 2018, arXiv:1802.01561, section 4) or ``rho 1[rho <= C]`` (masked),
    with ``rho = pi(y_t) / mu(y_t)`` of a token, or ``rho = prod_t pi(y_t) / mu(y_t)`` of its whole sequence.

    Args:
        logprobs_S: float [S], of the trainer's policy before the first update on these samples.
        sampler_logprobs_S: float [S], of the distribution that was sampled from.
        branch_S: int64 [S], the sequence of each token.
        n_branches: how many sequences there are.
        correction: level, kind and cap.

    Returns:
        (weights_S, capped_S): constants, in the log-probabilities' dtype, and bool: where the ratio was above the cap.
    """
    same_vectors(logprobs_S, sampler_logprobs_S)
    apart_S = (logprobs_S - sampler_logprobs_S).detach()
    if correction.level == "sequence":
        apart_S = sequence_sums(apart_S, branch_S, n_branches)[branch_S]
    ratio_S = torch.exp(apart_S)
    capped_S = ratio_S > correction.cap
    return torch.where(capped_S, correction.cap if correction.kind == "truncate" else 0.0, ratio_S), capped_S
