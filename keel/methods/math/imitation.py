"""Imitation: negative log-likelihood, and the weights of logged answers."""

from __future__ import annotations

import torch
from torch import Tensor

from keel.methods.math.checks import same_vectors


def negative_log_likelihood(logprobs_S: Tensor) -> Tensor:
    """``-log pi(y_t | x, y_<t)`` of each demonstrated token, in nats.

    Args:
        logprobs_S: float [S], log-probabilities of the demonstrated tokens.

    Returns:
        float [S].
    """
    same_vectors(logprobs_S)
    return -logprobs_S


def awr_weights(advantages_A: Tensor, beta: float, most: float) -> tuple[Tensor, Tensor]:
    """``min(exp(A / beta), most)``: what the log-likelihood of an answer counts in advantage-weighted regression (Peng et al. 2019,
    arXiv:1910.00177, section 3; they bound the weights at 20).

    Args:
        advantages_A: float [A].
        beta: temperature; small imitates the best answers alone, large all alike.
        most: the largest weight.

    Returns:
        (weights_A, capped_A): constants, and bool: where the bound held.
    """
    assert min(beta, most) > 0, "temperature and largest weight are above 0"
    exponent_A = advantages_A.detach() / beta
    ceiling = torch.log(torch.tensor(most, dtype=exponent_A.dtype, device=exponent_A.device))
    return torch.exp(torch.minimum(exponent_A, ceiling)), exponent_A > ceiling
