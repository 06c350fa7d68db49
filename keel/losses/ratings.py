"""Losses of ratings: a number, a number with its own uncertainty, one of several ordered levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.losses.checks import same_vectors


def squared_error(score_N: Tensor, rating_N: Tensor) -> Tensor:
    """``(s - r)^2``.

    Args:
        score_N: float [N].
        rating_N: float [N], in the units of the score.

    Returns:
        float [N].
    """
    same_vectors(score_N, rating_N)
    return torch.square(score_N - rating_N)


def gaussian(score_N: Tensor, variance_N: Tensor, rating_N: Tensor) -> Tensor:
    """``(log v + (s - r)^2 / v) / 2``: the negative log-likelihood of a normal rating without its constant (Nix & Weigend 1994; Kendall &
    Gal 2017, arXiv:1703.04977, eq. 5). The variance is what the raters differ by (aleatoric).

    Args:
        score_N: float [N], the mean.
        variance_N: float [N] > 0.
        rating_N: float [N].

    Returns:
        float [N], nats.
    """
    same_vectors(score_N, variance_N, rating_N)
    return (torch.log(variance_N) + torch.square(score_N - rating_N) / variance_N) / 2.0


def cumulative_link(score_X: Tensor, cuts_XK: Tensor) -> Tensor:
    """Log-probabilities of ordered levels, ``P(level <= k) = sigma(c_k - s)`` (McCullagh 1980, "Regression models for ordinal data", eq.
    2.3: proportional odds). Differences of sigmoids are taken as ``sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^(b - a))``, which loses
    nothing far out.

    Args:
        score_X: float [...], the latent score.
        cuts_XK: float [..., K - 1], rising; K levels.

    Returns:
        float [..., K].
    """
    below_XK, above_XK = logsigmoid(cuts_XK - score_X[..., None]), logsigmoid(score_X[..., None] - cuts_XK)
    gap_XK = torch.log(-torch.expm1(cuts_XK[..., :-1] - cuts_XK[..., 1:])).expand_as(below_XK[..., 1:])
    return torch.cat([below_XK[..., :1], below_XK[..., 1:] + above_XK[..., :-1] + gap_XK, above_XK[..., -1:]], -1)


def level(logprobs_NK: Tensor, level_N: Tensor) -> Tensor:
    """The negative log-probability of the level that was given.

    Args:
        logprobs_NK: float [N, K].
        level_N: int64 [N], from 0.

    Returns:
        float [N], nats.
    """
    return -logprobs_NK.gather(1, level_N[:, None])[:, 0]
