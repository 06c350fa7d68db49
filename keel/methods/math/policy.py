"""Policy losses per token, from log-probabilities and advantages. Lower is better: each is minus what is to be maximised.

Log-ratios are held within ``kl.LOG_RATIO_BOUND`` before they become ratios that nothing else bounds.
``importance_weights`` are those between the policy that is trained and the sampler that drew: the same weights in two programs are not the
same distribution, to say nothing of a sampler that is some versions behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from keel.methods.math.checks import same_vectors
from keel.methods.math.kl import bounded
from keel.methods.math.reduce import sequence_sums


class PolicyTerms(NamedTuple):
    """A policy loss per token and where its clip held the gradient back."""

    loss_S: Tensor  # float [S]
    low_S: Tensor  # bool [S]: the ratio fell below the band while the advantage was negative
    high_S: Tensor  # bool [S]: the ratio rose above the band while the advantage was positive (or above a ceiling, whatever it was)


PolicyLoss = Callable[[Tensor, Tensor, Tensor], PolicyTerms]
"""(logprobs_S, old_logprobs_S, advantages_S) -> terms per token."""


def policy_gradient(logprobs_S: Tensor, old_logprobs_S: Tensor, advantages_S: Tensor) -> PolicyTerms:
    """REINFORCE: ``-A_t log pi(y_t)``, the gradient of the expected reward (Williams 1992; Ahmadian et al. 2024, arXiv:2402.14740).

    Args:
        logprobs_S: float [S], of the policy being trained.
        old_logprobs_S: float [S], of the policy that sampled; asked for so that all policy losses are called alike, not used.
        advantages_S: float [S], constants.

    Returns:
        PolicyTerms; nothing is ever clipped.
    """
    same_vectors(logprobs_S, old_logprobs_S, advantages_S)
    never_S = torch.zeros_like(logprobs_S, dtype=torch.bool)
    return PolicyTerms(-advantages_S * logprobs_S, never_S, never_S)


def ppo_clip(logprobs_S: Tensor, old_logprobs_S: Tensor, advantages_S: Tensor, low: float = 0.2, high: float = 0.2) -> PolicyTerms:
    """``-min(rho A, clip(rho, 1 - low, 1 + high) A)`` with ``rho = pi / pi_old`` (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

    ``high > low`` is clip-higher (DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.1).

    Args:
        logprobs_S: float [S], of the policy being trained.
        old_logprobs_S: float [S], of the policy at the first update on these rollouts, constants.
        advantages_S: float [S], constants.
        low: how far below 1 the ratio counts.
        high: how far above 1 the ratio counts.

    Returns:
        PolicyTerms with the two sides on which the clip was active.
    """
    same_vectors(logprobs_S, old_logprobs_S, advantages_S)
    ratio_S = torch.exp(bounded(logprobs_S - old_logprobs_S))
    clipped_S = ratio_S.clamp(1.0 - low, 1.0 + high)
    loss_S = -torch.minimum(ratio_S * advantages_S, clipped_S * advantages_S)
    low_S = (ratio_S < 1.0 - low) & (advantages_S < 0)
    high_S = (ratio_S > 1.0 + high) & (advantages_S > 0)
    return PolicyTerms(loss_S, low_S, high_S)


def surrogate(logprobs_S: Tensor, old_logprobs_S: Tensor, advantages_S: Tensor) -> PolicyTerms:
    """``-rho A`` with ``rho = pi / pi_old`` and no clip (Schulman et al. 2017, arXiv:1707.06347, eq. 6). Something else has to hold the
    policy near the old one: the KL penalty of eq. 8.

    Args as ``ppo_clip``.

    Returns:
        PolicyTerms; nothing is ever clipped.
    """
    same_vectors(logprobs_S, old_logprobs_S, advantages_S)
    never_S = torch.zeros_like(logprobs_S, dtype=torch.bool)
    return PolicyTerms(-torch.exp(bounded(logprobs_S - old_logprobs_S)) * advantages_S, never_S, never_S)


def cispo(logprobs_S: Tensor, old_logprobs_S: Tensor, advantages_S: Tensor, low: float, high: float) -> PolicyTerms:
    """``-sg(clip(rho, 1 - low, 1 + high)) A log pi``: the importance weight is clipped and held constant, so that every token keeps its
    gradient (CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5).

    The paper sets no lower bound (``low = 1``) and tunes the upper one without naming it; a weight of at most 5 is what follow-up work
    used (ScaleRL, arXiv:2510.13786).

    Args as ``ppo_clip``.

    Returns:
        PolicyTerms; ``low_S`` and ``high_S`` where the weight was clipped, whatever the advantage. The gradient still flows there.
    """
    same_vectors(logprobs_S, old_logprobs_S, advantages_S)
    ratio_S = torch.exp(logprobs_S - old_logprobs_S).detach()
    weight_S = ratio_S.clamp(1.0 - low, 1.0 + high)
    return PolicyTerms(-weight_S * advantages_S * logprobs_S, ratio_S < 1.0 - low, ratio_S > 1.0 + high)


def dual_clip(
    logprobs_S: Tensor, old_logprobs_S: Tensor, advantages_S: Tensor, loss: PolicyLoss = ppo_clip, ceiling: float = 3.0
) -> PolicyTerms:
    """``max(objective, c A)`` where ``A < 0``: a bad token that has become much likelier cannot blow the loss up (Ye et al. 2020,
    arXiv:1912.09729, eq. 5; c = 3 there).

    Args:
        logprobs_S: float [S], of the policy being trained.
        old_logprobs_S: float [S], constants.
        advantages_S: float [S], constants.
        loss: the loss to bound, with a ratio: ``ppo_clip`` or ``surrogate``.
        ceiling: c > 1, the ratio above which a negative advantage stops counting more.

    Returns:
        PolicyTerms; ``high_S`` also where the ceiling holds the gradient back.
    """
    assert ceiling > 1.0, "a ceiling at or below a ratio of 1 would switch negative advantages off"
    terms = loss(logprobs_S, old_logprobs_S, advantages_S)
    most_S = -ceiling * advantages_S
    held_S = (advantages_S < 0) & (terms.loss_S > most_S)
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
