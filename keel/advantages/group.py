"""Credit for whole sequences: what a sample's reward is worth beside the others.

All take ``rewards_B`` (float [B]) and ``group_B`` (int64 [B], which group a sample belongs to) over all valid samples of a batch, and give
one advantage a sample, float [B] in the rewards' dtype, computed in float64. Groups may be of different size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_normalised(rewards_B: Tensor, group_B: Tensor, eps: float = 1e-4) -> Tensor:
    """``(r_i - mean) / (std + eps)`` within each group (GRPO, Shao et al. 2024, arXiv:2402.03300, section 4.1.2).

    The deviation is the sample's (n - 1). ``eps`` keeps rewards that differ by rounding alone from becoming unit-sized advantages; it
    shrinks them noticeably when the deviation is near 1e-4. Equal rewards, and a group of one sample, give exactly 0.
    """
    centred_B, n_U = _centred(rewards_B, group_B)
    variance_U = torch.bincount(group_B, weights=centred_B.square()) / (n_U - 1.0).clamp(min=1.0)
    return (centred_B / (variance_U.sqrt() + eps)[group_B]).to(rewards_B.dtype)


def group_centred(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """``r_i - mean`` within each group: no division, so that easy and hard prompts are not blown up (Dr. GRPO, Liu et al. 2025,
    arXiv:2503.20783, section 3.2)."""
    return _centred(rewards_B, group_B)[0].to(rewards_B.dtype)


def leave_one_out(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """``r_i - mean of the group's other rewards`` (RLOO, Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740), which is
    ``n / (n - 1) * (r_i - mean)``. A lone sample has nothing to be compared with and gets 0."""
    centred_B, n_U = _centred(rewards_B, group_B)
    return (centred_B * (n_U / (n_U - 1.0).clamp(min=1.0))[group_B]).to(rewards_B.dtype)


def batch_baseline(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """``r_i - mean over the whole batch``: REINFORCE with a constant baseline (Williams 1992). Groups play no part."""
    return _centred(rewards_B, torch.zeros_like(group_B))[0].to(rewards_B.dtype)


def _centred(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards minus their group's mean (float64 [B]), and the number of samples of each group (float64 [U])."""
    assert rewards_B.dim() == 1, "one reward a sample"
    assert rewards_B.is_floating_point(), f"rewards are floating point, not {rewards_B.dtype}"
    assert group_B.dtype == torch.int64, f"group indices are int64, not {group_B.dtype}"
    assert rewards_B.shape == group_B.shape, "every reward needs its group"
    rewards_B = rewards_B.double()
    n_U = torch.bincount(group_B).double()
    lowest_U = torch.full_like(n_U, float("inf")).scatter_reduce(0, group_B, rewards_B, "amin")
    above_B = rewards_B - lowest_U[group_B]  # equal rewards are exactly 0 from here on, whatever the rounding
    mean_U = torch.bincount(group_B, weights=above_B) / n_U
    return above_B - mean_U[group_B], n_U
