"""Losses of single answers that are wanted or not: no pair is needed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.losses.checks import same_vectors


def kto(ratio_A: Tensor, wanted_A: Tensor, beta: float, point: float, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """``w_D (1 - sigma(beta (ratio - z0)))`` of a wanted answer, ``w_U (1 - sigma(beta (z0 - ratio)))`` of an unwanted one (Ethayarajh et
    al. 2024, arXiv:2402.01306, eq. 8: lambda_y minus the value).

    Args:
        ratio_A: float [A], summed log-ratio of each answer to the reference.
        wanted_A: float [A] in [0, 1], probability that the answer is wanted.
        beta: strength of the tie to the reference.
        point: the reference point z0, an estimate of KL(policy || reference) in nats; a constant.
        weights: w_D and w_U.

    Returns:
        float [A].
    """
    same_vectors(ratio_A, wanted_A)
    value_A = beta * (ratio_A - point)
    return wanted_A * weights[0] * torch.sigmoid(-value_A) + (1.0 - wanted_A) * weights[1] * torch.sigmoid(value_A)


def bco(ratio_A: Tensor, wanted_A: Tensor, beta: float, point: float, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """``-log sigma(beta ratio - d)`` of a wanted answer, ``-log sigma(d - beta ratio)`` of an unwanted one: a classifier of answers whose
    logit is the reward, shifted by ``d = beta point`` (Jung et al. 2024, arXiv:2404.04656).

    Arguments as ``kto``; ``point`` is midway between the mean log-ratios of wanted and unwanted answers, or 0.
    """
    same_vectors(ratio_A, wanted_A)
    logit_A = beta * (ratio_A - point)
    return -wanted_A * weights[0] * logsigmoid(logit_A) - (1.0 - wanted_A) * weights[1] * logsigmoid(-logit_A)


def kl_point(ratio_K: Tensor) -> float:
    """KTO's reference point: ``max(0, mean)`` of the log-ratios of answers to other prompts (arXiv:2402.01306, section 4). 0 for none."""
    return max(0.0, float(ratio_K.mean())) if len(ratio_K) else 0.0


def midpoint(ratio_A: Tensor, wanted_A: Tensor) -> float:
    """BCO's reward shift over beta: the mean of (mean log-ratio of wanted answers, mean log-ratio of unwanted ones), each answer counted by
    its probability of being so; with answers of one kind only, their mean. 0 for none (arXiv:2404.04656; its moving average over steps is
    left out, so that a step depends on its batch alone)."""
    same_vectors(ratio_A, wanted_A)
    shares = [share_A for share_A in (wanted_A, 1.0 - wanted_A) if float(share_A.sum()) > 0.0]
    means = [float((share_A * ratio_A).sum() / share_A.sum()) for share_A in shares]
    return sum(means) / len(means) if means else 0.0
