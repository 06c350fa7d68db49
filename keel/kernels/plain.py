"""The plain path: padded rows, one per branch, with the model's own attention. Slower, and right for every architecture."""

from __future__ import annotations

from collections.abc import Sequence
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
    positions_PRL: Tensor  # int64, P = 1 or 3
    span_RL: Tensor  # bool: inside a two-way span of the prompt
    media: tuple[MediaRef, ...]  # in row order: an image of a prompt once for every branch


def padded_rows(batch: Batch) -> PaddedRows:
    """Lay a batch out as rows. A unit without branches is one row of its prompt."""
    rows: list[Tensor] = []
    row_N: list[Tensor] = []
    column_N: list[Tensor] = []
    positions: list[Tensor] = []  # [L, P] of each row
    spans: list[Tensor] = []
    media: list[MediaRef] = []
    at = 0
    for unit, group in zip(batch.units, batch.groups, strict=True):
        prompt = slice(at, at + group.prompt)
        row_N.append(torch.full((group.prompt,), len(rows)))
        column_N.append(torch.arange(group.prompt))
        at += group.prompt
        for length in group.branches or (0,):
            branch = slice(at, at + length)
            row_N.append(torch.full((length,), len(rows)))
            column_N.append(torch.arange(group.prompt, group.prompt + length))
            rows.append(torch.cat([batch.tokens_N[prompt], batch.tokens_N[branch]]))
            positions.append(torch.cat([batch.positions_PN[:, prompt], batch.positions_PN[:, branch]], 1).T)
            spans.append(inside(group.spans, group.prompt + length))
            media += unit.prompt.media
            at += length
    tokens_RL, span_RL, positions_RLP = (pad_sequence(x, batch_first=True) for x in (rows, spans, positions))
    mask_RL = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    return PaddedRows(
        tokens_RL, mask_RL, torch.cat(row_N), torch.cat(column_N), positions_RLP.permute(2, 0, 1).contiguous(), span_RL, tuple(media)
    )


def inside(spans: Sequence[tuple[int, int]], length: int) -> Tensor:
    """Which of ``length`` tokens lie in one of the spans: bool [L]."""
    found_L = torch.zeros(length, dtype=torch.bool)
    for first, end in spans:
        found_L[first:end] = True
    return found_L
