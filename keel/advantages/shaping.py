"""Rewards per token: a score for the whole answer, and a price for every step away from the reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from keel.types import Group


def kl_penalty(logprobs_T: Tensor, ref_logprobs_T: Tensor, coef: float) -> Tensor:
    """``-beta (log pi - log pi_ref)`` per token: the k1 estimate of KL(policy || reference) as a negative reward (Ziegler et al. 2019,
    arXiv:1909.08593, eq. 2). Either sign: clamping it at 0 would bias it.

    Args:
        logprobs_T: float [T], of the policy that sampled.
        ref_logprobs_T: float [T], of the reference.
        coef: beta, reward per nat.

    Returns:
        float [T].
    """
    assert logprobs_T.dim() == 1, "one log-probability a token"
    assert logprobs_T.shape == ref_logprobs_T.shape, "policy and reference must have scored the same tokens"
    return -coef * (logprobs_T - ref_logprobs_T)


def with_terminal_reward(penalties_T: Tensor, reward: float) -> Tensor:
    """Add the answer's score to the last token's reward. float [T], T >= 1 -> float [T]."""
    assert penalties_T.dim() == 1, "one reward a token"
    assert len(penalties_T) > 0, "an answer without tokens cannot carry a reward"
    rewards_T = penalties_T.clone()
    rewards_T[-1] += reward
    return rewards_T


def overlong_penalty(lengths_G: Tensor, limit: int, buffer: float) -> Tensor:
    """0 up to ``limit - buffer`` tokens, then falling in a straight line to -1 at ``limit`` (soft over-long punishment of DAPO, Yu et al.
    2025, arXiv:2503.14476, eq. 13).

    Args:
        lengths_G: float [G], sampled tokens of each answer.
        limit: the longest answer there can be.
        buffer: the last tokens before it, above 0.

    Returns:
        float [G] from -1 to 0.
    """
    assert lengths_G.is_floating_point(), f"lengths are floating point, not {lengths_G.dtype}"
    assert buffer > 0, "a penalty needs a stretch to fall over"
    return ((limit - buffer - lengths_G) / buffer).clamp(-1.0, 0.0)


def with_overlong_penalty(group: Group, limit: int, buffer: float, factor: float) -> Group:
    """The group with ``factor * overlong_penalty`` added to its rewards; the penalty itself is the part ``overlong``."""
    penalty_G = overlong_penalty(torch.tensor([float(r.sampled_T.sum()) for r in group.rollouts]), limit, buffer)
    return replace(group, rewards_G=group.rewards_G + factor * penalty_G, parts={**group.parts, "overlong": penalty_G})


def rewards_differ(group: Group) -> bool:
    """Is there anything to compare? False where all valid rewards are equal, or fewer than two are valid."""
    rewards = group.rewards_G[group.valid_G]
    return bool((rewards != rewards[:1]).any())
