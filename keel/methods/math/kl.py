"""Single-sample estimators of KL(policy || reference) from the log-probabilities of sampled tokens; and f-divergences in its place.

Schulman, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html, 2020). With ``r = log pi(x) - log pi_ref(x)`` and x ~ pi all of
k1 and k3 have the expectation KL(pi || ref); what differs is the gradient when an estimator is used *as a loss* on samples of pi:

====  =============  ==========================================================================
k1    r              expectation 0: it carries no signal; k1 belongs in the reward
k2    r^2 / 2        that of KL(pi || ref), the reverse KL: the one for a loss
k3    e^-r - 1 + r   that of KL(ref || pi), the forward KL; GRPO as published uses it
====  =============  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.methods.math.checks import same_vectors

LOG_RATIO_BOUND = 20.0  # e^20 is 5e8: no ratio beyond it says anything but "far too large"


def bounded(log_ratio_S: Tensor) -> Tensor:
    """A log-ratio before ``exp``, held within ``LOG_RATIO_BOUND``: one token that overflows must not cost the whole step. Inside the bound
    value and gradient are exact; beyond it the token has no gradient. float [S], nats; any shape."""
    return log_ratio_S.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def k1(logprobs_S: Tensor, ref_logprobs_S: Tensor) -> Tensor:
    """``r = log pi - log ref``: unbiased, of either sign. Only in the reward.

    Args:
        logprobs_S: float [S], the policy's log-probabilities of the sampled tokens.
        ref_logprobs_S: float [S], the reference's.

    Returns:
        float [S], nats per token.
    """
    same_vectors(logprobs_S, ref_logprobs_S)
    return logprobs_S - ref_logprobs_S


def k2(logprobs_S: Tensor, ref_logprobs_S: Tensor) -> Tensor:
    """``r^2 / 2``: biased as a value, low variance, and the on-policy gradient of its mean is exactly that of KL(pi || ref).

    Args and returns as ``k1``; never negative.
    """
    same_vectors(logprobs_S, ref_logprobs_S)
    return 0.5 * (logprobs_S - ref_logprobs_S).square()


def k3(logprobs_S: Tensor, ref_logprobs_S: Tensor) -> Tensor:
    """``e^-r - 1 + r``, with ``-r`` at most ``LOG_RATIO_BOUND``: unbiased and never negative. In the loss it is GRPO's penalty (Shao et al.
    2024, arXiv:2402.03300, eq. 4).

    Args and returns as ``k1``.
    """
    same_vectors(logprobs_S, ref_logprobs_S)
    ratio_log_S = (ref_logprobs_S - logprobs_S).clamp(max=LOG_RATIO_BOUND)
    return torch.expm1(ratio_log_S) - ratio_log_S


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def grounded(logprobs_S: Tensor, masked_S: Tensor, above: float) -> Tensor:
    """1 for tokens that hang on what is masked in the prompt: their log-probability is more than ``above`` nats higher with it; else 0.

    Args:
        logprobs_S: float [S], behind the whole prompt.
        masked_S: float [S], of the same tokens behind the masked one.
        above: nats.

    Returns:
        float32 [S].
    """
    same_vectors(logprobs_S, masked_S)
    return (logprobs_S - masked_S > above).float()


def by_kind(grounded_S: Tensor, factors: tuple[float, float]) -> Tensor:
    """The first of ``factors`` where ``grounded_S`` [S] is 1, the second where it is 0: float [S]."""
    same_vectors(grounded_S)
    return factors[1] + (factors[0] - factors[1]) * grounded_S


_LARGEST = 80.0


def reverse_kl(ratio_R: Tensor, alpha: float) -> Tensor:
    """``f'(u) = log u``: plain DPO."""
    same_vectors(ratio_R)
    return ratio_R


def forward_kl(ratio_R: Tensor, alpha: float) -> Tensor:
    """``f'(u) = 1 - 1/u``."""
    same_vectors(ratio_R)
    return 1.0 - torch.exp((-ratio_R).clamp(max=_LARGEST))


def js(ratio_R: Tensor, alpha: float) -> Tensor:
    """``f'(u) = log(2 u / (1 + u))``: Jensen-Shannon."""
    same_vectors(ratio_R)
    return math.log(2.0) + logsigmoid(ratio_R)


def alpha_divergence(ratio_R: Tensor, alpha: float) -> Tensor:
    """``f'(u) = (1 - u^-alpha) / alpha`` for alpha in (0, 1): towards the reverse KL at 0, the forward KL at 1."""
    same_vectors(ratio_R)
    return (1.0 - torch.exp((-alpha * ratio_R).clamp(max=_LARGEST))) / alpha


DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "js": js,
    "alpha": alpha_divergence,
}
