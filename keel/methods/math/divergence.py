"""Divergences of whole distributions, policy p and reference (or teacher) q over the same tokens, and their gradients by p's logits.

With ``m = beta q + (1 - beta) p`` (Agarwal et al. 2023, arXiv:2306.13649, generalised JSD; their P is q here, their Q is p)::

    forward_kl   KL(q || p)                                 gradient  p - q
    reverse_kl   KL(p || q)                                 gradient  p (g - sum p g),  g = log p/q
    jsd          beta KL(q || m) + (1 - beta) KL(p || m)    gradient  p (g - sum p g),  g = (1 - beta) log p/m

``jsd / beta`` goes to the forward KL as beta goes to 0, ``jsd / (1 - beta)`` to the reverse KL as beta goes to 1. All in log space: what
underflows in p or q is no harm. A token that neither may take has the same, very low log-probability in both and adds nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from keel.types import Divergence

_LOWEST = -60.0  # log-probabilities below count as this one: e^-60 is nothing, and an exp that underflows takes up to fifty times as long


def probabilities(log_p_NV: Tensor) -> Tensor:
    """``exp``, where nothing underflows: float [N, V]."""
    return log_p_NV.clamp(min=_LOWEST).exp_()


def divergence(log_p_NV: Tensor, log_q_NV: Tensor, by: Divergence) -> Tensor:
    """The divergence of each row.

    Args:
        log_p_NV: float [N, V], the policy's log-probabilities.
        log_q_NV: float [N, V], the reference's.
        by: which divergence.

    Returns:
        float [N], nats; never negative but for rounding.
    """
    _same_tables(log_p_NV, log_q_NV)
    apart_NV = log_p_NV - log_q_NV
    if by.kind == "forward_kl":
        return -_mean(log_q_NV, apart_NV)
    if by.kind == "reverse_kl":
        return _mean(log_p_NV, apart_NV)
    share = 1.0 - by.beta
    return share * _mean(log_p_NV, _over_mixture(apart_NV, share)) + by.beta * _mean(log_q_NV, _over_mixture(-apart_NV, by.beta))


def logit_gradient(log_p_NV: Tensor, log_q_NV: Tensor, by: Divergence) -> tuple[Tensor, Tensor]:
    """``d divergence / d z`` with ``log p = log_softmax(z)``, each row of which sums to 0, and p: float [N, V] twice. Arguments as
    ``divergence``."""
    _same_tables(log_p_NV, log_q_NV)
    p_NV, share = probabilities(log_p_NV), 1.0 - by.beta
    if by.kind == "forward_kl":
        return p_NV - probabilities(log_q_NV), p_NV
    apart_NV = log_p_NV - log_q_NV
    gain_NV = apart_NV if by.kind == "reverse_kl" else _over_mixture(apart_NV, share).mul_(share)
    return gain_NV.sub_((p_NV * gain_NV).sum(1)[:, None]).mul_(p_NV), p_NV


def _mean(log_p_NV: Tensor, values_NV: Tensor) -> Tensor:
    """Under the distribution of each row: [N]."""
    return probabilities(log_p_NV).mul_(values_NV).sum(1)


def _over_mixture(apart_NV: Tensor, share: float) -> Tensor:
    """``log p/m`` of ``log p/q``, p having this share of the mixture m. No difference of large numbers: at most ``-log share``."""
    return torch.logaddexp(apart_NV.new_tensor(math.log(share)), math.log(1.0 - share) - apart_NV).neg_()


def _same_tables(log_p_NV: Tensor, log_q_NV: Tensor) -> None:
    assert log_p_NV.dim() == 2, f"rows of distributions are needed, not rank {log_p_NV.dim()}"
    assert log_p_NV.shape == log_q_NV.shape, f"shapes differ: {tuple(log_p_NV.shape)} and {tuple(log_q_NV.shape)}"
