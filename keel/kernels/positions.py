"""Positions of packed rows: what each token's rotation is made of. Most models count in one row; some count time, height and width of an
image in three."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keel.types import Encoded


def packed_positions(units: Sequence[tuple[Encoded, Sequence[int]]]) -> Tensor:
    """Positions [P, N] of prompts and the lengths of their branches in packed order: restarting for each unit, every branch going on from
    its prompt's ``next_position``. P = 3 as soon as one prompt has three rows."""
    parts: list[Tensor] = []
    for prompt, lengths in units:
        parts.append(prompt_positions(prompt))
        following = prompt.next_position if lengths else 0
        parts += [torch.arange(following, following + n)[None] for n in lengths]
    rows = max((p.shape[0] for p in parts), default=1)
    return torch.cat([p.expand(rows, -1) for p in parts], 1) if parts else torch.zeros(1, 0, dtype=torch.long)


def prompt_positions(prompt: Encoded) -> Tensor:
    """Positions [P, T] of a prompt."""
    return torch.arange(len(prompt))[None] if prompt.positions_PT is None else prompt.positions_PT


def as_input(positions_PBL: Tensor) -> Tensor:
    """What models take as ``position_ids``: [B, L] where they count in one row, [3, B, L] otherwise."""
    return positions_PBL[0] if positions_PBL.shape[0] == 1 else positions_PBL
