"""The plain decoder, for models whose fast path is not proven: the model's own attention with transformers' own cache.

Slower (every row reads its prompt, rows stay until the last one is done) and right for every architecture that can generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keel.kernels.plain import inside
from keel.kernels.positions import as_input, prompt_positions
from keel.models.model import Model
from keel.models.placing import type_ids
from keel.rollout.kept import Beginning
from keel.types import Encoded, MediaRef


class PlainDecoder:
    """Rows padded on the left, as transformers' ``generate`` lays them out."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cache: Any = None
        self._mask_BL = torch.zeros(0, 0, dtype=torch.int64)
        self._next_B1 = torch.zeros(0, 1, dtype=torch.int64)  # position of each row's next token

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int, beginnings: Sequence[Beginning | None] = ()) -> Tensor:
        """All is read, whatever was read before."""
        rows = [prompts[q] for q in prompt_B.tolist()]
        longest = max(len(p) for p in rows)
        tokens_BL = torch.zeros(len(rows), longest, dtype=torch.int64)
        self._mask_BL = torch.zeros_like(tokens_BL)
        span_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        positions_PBL = torch.zeros(max(len(prompt_positions(p)) for p in rows), *tokens_BL.shape, dtype=torch.int64)
        for row, prompt in enumerate(rows):
            real = slice(longest - len(prompt), None)
            tokens_BL[row, real] = prompt.tokens_T
            self._mask_BL[row, real] = 1
            span_BL[row, real] = inside(prompt.spans, len(prompt))
            positions_PBL[:, row, real] = prompt_positions(prompt)
        self._mask_BL = self._mask_BL.to(self._model.device)
        self._next_B1 = torch.tensor([[p.next_position] for p in rows], device=self._model.device)
        self._cache = None
        return self._forward(tokens_BL, as_input(positions_PBL), [ref for p in rows for ref in p.media], span_BL)

    def step(self, tokens_B: Tensor) -> Tensor:
        assert self._cache is not None, "start comes first"
        self._mask_BL = torch.cat([self._mask_BL, torch.ones_like(self._mask_BL[:, :1])], 1)
        logits_BV = self._forward(tokens_B[:, None], self._next_B1)
        self._next_B1 = self._next_B1 + 1
        return logits_BV

    def keep(self, alive_B: Tensor) -> Tensor:
        """Nothing is dropped: not every cache of transformers can."""
        return torch.arange(len(alive_B))

    def beginning(self, row: int) -> None:
        """Not every cache of transformers can be taken apart."""

    def renew(self) -> None:
        """Nothing was copied."""

    def finish(self) -> None:
        self._cache = None

    def _forward(self, tokens_BL: Tensor, positions: Tensor, media: Sequence[MediaRef] = (), span_BL: Tensor | None = None) -> Tensor:
        device = self._model.device
        types = type_ids(self._model.module, span_BL) if span_BL is not None else {}
        more: dict[str, Any] = {name: value.to(device) for name, value in types.items()}
        with self._model.own_attention():
            out = self._model.body(
                tokens_BL,
                media,
                attention_mask=self._mask_BL,
                position_ids=positions.to(device),
                past_key_values=self._cache,
                use_cache=True,
                **more,
            )
        self._cache = out.past_key_values
        return self._model.logits(out.last_hidden_state[:, -1])
