"""Credit for single tokens: discounted returns and generalised advantage estimation over one sequence of actions."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


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
