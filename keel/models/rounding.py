"""Rounding that keeps small changes: float32 to numbers that bfloat16 holds, up or down by chance, right on average.

A merged adapter often changes a weight by less than half of the distance between two bfloat16 numbers. The nearest such number is then the
weight before training, and that part of what was learnt is gone as soon as the model is read in bfloat16 (Gupta et al. 2015,
https://arxiv.org/abs/1502.02551, round by chance for the same reason).
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEP_BITS = 16  # of a float32's bits, those that bfloat16 lacks


def round_unbiased(value: Tensor, seed: int) -> Tensor:
    """``value`` (float32, any shape) on the grid of bfloat16, as float32. Between two neighbours the farther one is taken with the
    probability that makes the mean exact; what lies on the grid stays. ``seed`` decides the draws."""
    assert value.dtype == torch.float32, value.dtype
    generator = torch.Generator().manual_seed(seed)
    chance = torch.randint(1 << _STEP_BITS, value.shape, generator=generator, dtype=torch.int32).to(value.device)
    bits = value.contiguous().view(torch.int32)
    rounded = (bits + chance).bitwise_and_(~((1 << _STEP_BITS) - 1)).view(torch.float32)
    return torch.where(rounded.isfinite(), rounded, value)
