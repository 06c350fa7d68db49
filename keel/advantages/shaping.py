"""Rewards per token: a score for the whole answer, and a price for every step away from the reference."""

from __future__ import annotations

from torch import Tensor


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
