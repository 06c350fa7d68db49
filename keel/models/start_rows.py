"""What is trained beside adapters, as it was before training: the reference of such a model is put together from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class StartRows:
    """What is trained beside adapters, as it was before training: rows of a table, or a whole weight."""

    weight_VH: nn.Parameter
    rows_K: Tensor | EllipsisType  # int64 [K]; ...: all
    start_KH: Tensor


@contextlib.contextmanager
def at_start(started: Sequence[StartRows]) -> Iterator[None]:
    """Put rows back to where training started, and the trained ones back at the end, bit for bit. Weights that are shared out are to be in
    their shares, not put together for a pass."""
    trained = [s.weight_VH.detach()[s.rows_K].clone() for s in started]
    try:
        with torch.no_grad():
            for s in started:
                s.weight_VH[s.rows_K] = s.start_KH
        yield
    finally:
        with torch.no_grad():
            for s, trained_KH in zip(started, trained, strict=True):
                s.weight_VH[s.rows_K] = trained_KH
