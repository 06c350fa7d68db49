"""Importance weights between the policy that is trained and the sampler that drew: the same weights in two programs are not the same
distribution, to say nothing of a sampler that is some versions behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from keel.losses.checks import same_vectors
from keel.losses.reduce import sequence_sums


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
