"""Single-sample estimators of KL(policy || reference) from the log-probabilities of sampled tokens.

Schulman, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html, 2020). With ``r = log pi(x) - log pi_ref(x)`` and x ~ pi all of
k1 and k3 have the expectation KL(pi || ref); what differs is the gradient when an estimator is used *as a loss* on samples of pi:

====  =============  ==========================================================================
k1    r              expectation 0: it carries no signal; k1 belongs in the reward
k2    r^2 / 2        that of KL(pi || ref), the reverse KL: the one for a loss
k3    e^-r - 1 + r   that of KL(ref || pi), the forward KL; GRPO as published uses it
====  =============  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from keel.losses.checks import same_vectors

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
