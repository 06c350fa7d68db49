"""Credit for whole sequences: what a sample's reward is worth beside the others.

All take ``rewards_B`` (float [B]) and ``group_B`` (int64 [B], which group a sample belongs to) over all valid samples of a batch, and give
one advantage a sample, float [B] in the rewards' dtype, computed in float64. Groups may be of different size. Some take a third vector.
Those of single tokens (discounted returns, generalised advantage estimation) take one sequence of actions.
"""

from __future__ import annotations

from typing import cast

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


def batch_normalised(rewards_B: Tensor, group_B: Tensor, eps: float = 1e-4) -> Tensor:
    """``(r_i - mean) / (std + eps)`` over the whole batch, deviation n - 1: the second step of GDPO (Liu et al. 2026, arXiv:2601.05242),
    whose rewards are sums of scores that were normalised within their groups. Groups play no part. Equal rewards give 0."""
    return group_normalised(rewards_B, torch.zeros_like(group_B), eps)


def no_baseline(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """``r_i`` as it is: REINFORCE without a baseline (Williams 1992). Unbiased, and of the largest variance of all."""
    _check(rewards_B, group_B)
    return rewards_B.clone()


def optimal_baseline(rewards_B: Tensor, group_B: Tensor, lengths_B: Tensor) -> Tensor:
    """``r_i - b`` with ``b = sum_j l_j r_j / sum_j l_j`` within each group, l the lengths in sampled tokens.

    The constant of least variance is ``b = E[|g|^2 r] / E[|g|^2]``, g the gradient of the sample's log-probability (Weaver and Tao 2001;
    Greensmith et al. 2004). With gradients of single tokens of about equal size and uncorrelated, |g|^2 grows as the length,
    which gives the formula (Hao et al. 2025, arXiv:2505.23585). A sample's own reward is in b, so the gradient is smaller
    than the true one, by about its share of the group's tokens.

    Args:
        rewards_B: float [B].
        group_B: int64 [B].
        lengths_B: float [B], sampled tokens of each sample, at least 1.
    """
    _check(rewards_B, group_B)
    assert lengths_B.shape == rewards_B.shape, "every sample needs its length"
    above_B = _above_lowest(rewards_B, group_B)
    weights_B = lengths_B.double()
    baseline_U = torch.bincount(group_B, weights=weights_B * above_B) / torch.bincount(group_B, weights=weights_B)
    return (above_B - baseline_U[group_B]).to(rewards_B.dtype)


def greedy_baseline(rewards_B: Tensor, group_B: Tensor, greedy_B: Tensor) -> Tensor:
    """``r_i - r(greedy answer to the same prompt)`` (ReMax, Li et al. 2023, arXiv:2310.10505). Unbiased with one sample: the
    greedy answer does not depend on what was sampled.

    Args:
        rewards_B: float [B].
        group_B: int64 [B].
        greedy_B: float [B], the reward of the greedy answer to each sample's prompt.
    """
    _check(rewards_B, group_B)
    assert greedy_B.shape == rewards_B.shape, "every sample needs the reward of its prompt's greedy answer"
    return (rewards_B - greedy_B).to(rewards_B.dtype)


def _check(rewards_B: Tensor, group_B: Tensor) -> None:
    assert rewards_B.dim() == 1, "one reward a sample"
    assert rewards_B.is_floating_point(), f"rewards are floating point, not {rewards_B.dtype}"
    assert group_B.dtype == torch.int64, f"group indices are int64, not {group_B.dtype}"
    assert rewards_B.shape == group_B.shape, "every reward needs its group"


def _above_lowest(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """Rewards minus their group's lowest (float64 [B]): equal rewards are exactly 0 from here on, whatever the rounding."""
    rewards_B = rewards_B.double()
    lowest_U = torch.full((len(torch.bincount(group_B)),), float("inf"), dtype=torch.float64, device=rewards_B.device)
    return rewards_B - lowest_U.scatter_reduce(0, group_B, rewards_B, "amin")[group_B]


def _centred(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards minus their group's mean (float64 [B]), and the number of samples of each group (float64 [U])."""
    _check(rewards_B, group_B)
    above_B = _above_lowest(rewards_B, group_B)
    n_U = torch.bincount(group_B).double()
    mean_U = torch.bincount(group_B, weights=above_B) / n_U
    return above_B - mean_U[group_B], n_U


def gae(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """``A_t = sum_k (gamma lam)^k delta_(t+k)`` with ``delta_t = r_t + gamma V_(t+1) - V_t`` (Schulman et al. 2015,
    arXiv:1506.02438, eq. 16).

    The sequence ends after its last token: the value that follows is 0, also when the answer was cut off at its length limit.

    Args:
        rewards_T: float [T], reward received with each action.
        values_T: float [T], V(s_t) before each action.
        gamma: discount.
        lam: 1 = returns minus values (no bias), 0 = one-step temporal difference (low variance).

    Returns:
        (advantages_T, returns_T) in the rewards' dtype; ``returns = advantages + values`` is the critic's target.
    """
    assert rewards_T.dim() == 1, "one reward an action"
    assert rewards_T.is_floating_point(), f"rewards are floating point, not {rewards_T.dtype}"
    assert rewards_T.shape == values_T.shape, "every action needs its value"
    advantage, next_value = 0.0, 0.0
    advantages: list[float] = []
    for reward, value in zip(reversed(_floats(rewards_T)), reversed(_floats(values_T)), strict=True):
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * lam * advantage
        next_value = value
        advantages.append(advantage)
    advantages_T = torch.tensor(advantages[::-1], dtype=torch.float64)
    return advantages_T.to(rewards_T.dtype), (advantages_T + values_T.cpu()).to(rewards_T.dtype)


def returns_to_go(rewards_T: Tensor, gamma: float) -> Tensor:
    """``R_t = sum_k gamma^k r_(t+k)``: what came after each action (Sutton and Barto 2018, eq. 3.8). float [T] -> float [T]."""
    _, returns_T = gae(rewards_T, torch.zeros_like(rewards_T), gamma, 1.0)
    return returns_T


def _floats(values_T: Tensor) -> list[float]:
    return cast("list[float]", values_T.tolist())  # pyright: ignore[reportUnknownMemberType]
