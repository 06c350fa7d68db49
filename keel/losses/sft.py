"""Imitation: negative log-likelihood."""

from __future__ import annotations

from torch import Tensor

from keel.losses.checks import same_vectors


def negative_log_likelihood(logprobs_S: Tensor) -> Tensor:
    """``-log pi(y_t | x, y_<t)`` of each demonstrated token, in nats.

    Args:
        logprobs_S: float [S], log-probabilities of the demonstrated tokens.

    Returns:
        float [S].
    """
    same_vectors(logprobs_S)
    return -logprobs_S
