"""Losses of a critic that predicts V(s_t) before each sampled token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from keel.methods.math.checks import same_vectors


class ValueTerms(NamedTuple):
    """A value loss per token and where its clip was active."""

    loss_S: Tensor  # float [S]
    clipped_S: Tensor  # bool [S]


def clipped_value(values_S: Tensor, old_values_S: Tensor, returns_S: Tensor, clip: float = 0.2) -> ValueTerms:
    """``max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2) / 2``: PPO's value loss as in the original code (openai/baselines ppo2;
    Engstrom et al. 2020, arXiv:2005.12729, section 3).

    Args:
        values_S: float [S], of the critic being trained.
        old_values_S: float [S], of the critic when the returns were made, constants.
        returns_S: float [S], targets, constants.
        clip: largest move away from the old value that can lower the loss; ``inf`` leaves the plain squared error.

    Returns:
        ValueTerms; ``clipped_S`` where the clipped branch is the larger one.
    """
    same_vectors(values_S, old_values_S, returns_S)
    near_S = old_values_S + (values_S - old_values_S).clamp(-clip, clip)
    plain_S = (values_S - returns_S).square()
    bounded_S = (near_S - returns_S).square()
    return ValueTerms(0.5 * torch.maximum(plain_S, bounded_S), bounded_S > plain_S)


def explained_variance(values_S: Tensor, returns_S: Tensor) -> float:
    """``1 - Var(R - V) / Var(R)``: 1 is a perfect critic, 0 no better than a constant, below 0 worse.

    Args:
        values_S: float [S], predictions.
        returns_S: float [S], what came.

    Returns:
        The share; 0.0 when the returns do not vary (nothing can be explained).
    """
    same_vectors(values_S, returns_S)
    if returns_S.numel() == 0:
        return 0.0
    total = returns_S.var(correction=0)
    if float(total) == 0.0:
        return 0.0
    return float(1.0 - (returns_S - values_S).var(correction=0) / total)
