"""The plain path: padded rows, one per branch, with the model's own attention. Slower, and right for every architecture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from keel.types import Batch, MediaRef


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """A packed batch laid out as rows: prompt + branch each, padded on the right."""

    tokens_RL: Tensor  # int64
    mask_RL: Tensor  # int64, 1 = real
    row_N: Tensor  # int64: the row that holds each packed position (for prompts: that of the unit's first branch)
    column_N: Tensor  # int64
    media: tuple[MediaRef, ...]  # in row order: an image of a prompt once for every branch


def padded_rows(batch: Batch) -> PaddedRows:
    """Lay a batch out as rows. A unit without branches is one row of its prompt."""
    rows: list[Tensor] = []
    row_N: list[Tensor] = []
    media: list[MediaRef] = []
    column_N = batch.positions_N
    at = 0
    for unit, (prompt, branches) in zip(batch.units, batch.groups, strict=True):
        prompt_tokens = batch.tokens_N[at : at + prompt]
        row_N.append(torch.full((prompt,), len(rows)))
        at += prompt
        for length in branches or (0,):
            row_N.append(torch.full((length,), len(rows)))
            rows.append(torch.cat([prompt_tokens, batch.tokens_N[at : at + length]]))
            media += unit.prompt.media
            at += length
    mask_RL = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    return PaddedRows(pad_sequence(rows, batch_first=True), mask_RL, torch.cat(row_N), column_N, tuple(media))
