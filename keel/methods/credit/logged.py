"""Advantages of answers whose rewards were logged: how much better than expected, without asking the policy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["group", "batch", "value", "none"]


def logged_advantages(
    rewards_A: Tensor, unit_A: Tensor, baseline: Baseline, values_A: Tensor | None = None, *, scale: bool = True
) -> Tensor:
    """``reward - baseline``, divided by its root mean square over all answers where ``scale`` is set.

    Args:
        rewards_A: float64 [A].
        unit_A: int64 [A], which prompt an answer is to; 0 ... U - 1.
        baseline: the mean over the answers to the same prompt (an answer alone has 0), the mean over all answers,
            ``values_A``, or nothing.
        values_A: float64 [A], what was expected; read by ``value``.
        scale: after it the advantages' mean square is 1; rewards that never differ from the baseline stay 0.

    Returns:
        float64 [A].
    """
    assert rewards_A.shape == unit_A.shape, "every reward belongs to a prompt"
    if baseline == "group":
        counts_U = torch.bincount(unit_A)
        advantages_A = rewards_A - (torch.bincount(unit_A, weights=rewards_A) / counts_U.clamp(min=1))[unit_A]
    elif baseline == "batch":
        advantages_A = rewards_A - rewards_A.mean()
    elif baseline == "value":
        assert values_A is not None, "the baseline is a value"
        advantages_A = rewards_A - values_A
    else:
        advantages_A = rewards_A.clone()
    if not scale:
        return advantages_A
    size = advantages_A.square().mean().sqrt()
    return advantages_A / size if float(size) > 1e-12 else torch.zeros_like(advantages_A)
