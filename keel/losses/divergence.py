"""f-divergences in place of the reverse KL: what a log-ratio to the reference is worth (Wang et al. 2023, arXiv:2309.16240, table 1).

With ``u = pi / pi_ref`` the reward is ``beta f'(u)``. Constants that cancel between two answers are chosen so that the value is 0 at u = 1.
Exponents are cut at 80, where float32 ends; beyond it there is no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from keel.losses.checks import same_vectors

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
