"""The plain decoder, for models whose fast path is not proven: the model's own attention with transformers' own cache.

Slower (every row reads its prompt, rows stay until the last one is done) and right for every architecture that can generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keel.models.model import Model
from keel.types import Encoded


class PlainDecoder:
    """Rows padded on the left, as transformers' ``generate`` lays them out."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cache: Any = None
        self._mask_BL = torch.zeros(0, 0, dtype=torch.int64)

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int) -> Tensor:
        rows = [prompts[q] for q in prompt_B.tolist()]
        longest = max(len(p) for p in rows)
        tokens_BL = torch.zeros(len(rows), longest, dtype=torch.int64)
        self._mask_BL = torch.zeros_like(tokens_BL)
        for row, prompt in enumerate(rows):
            tokens_BL[row, longest - len(prompt) :] = prompt.tokens_T
            self._mask_BL[row, longest - len(prompt) :] = 1
        self._mask_BL = self._mask_BL.to(self._model.device)
        self._cache = None
        pixels = self._model.media.gather(tuple(ref for p in rows for ref in p.media))
        return self._forward(tokens_BL, **{name: value.to(self._model.device) for name, value in pixels.items()})

    def step(self, tokens_B: Tensor) -> Tensor:
        assert self._cache is not None, "start comes first"
        self._mask_BL = torch.cat([self._mask_BL, torch.ones_like(self._mask_BL[:, :1])], 1)
        return self._forward(tokens_B[:, None])

    def keep(self, alive_B: Tensor) -> Tensor:
        """Nothing is dropped: not every cache of transformers can."""
        return torch.arange(len(alive_B))

    def finish(self) -> None:
        self._cache = None

    def _forward(self, tokens_BL: Tensor, **pixels: Tensor) -> Tensor:
        positions_BL = (self._mask_BL.cumsum(-1) - 1).clamp(min=0)[:, -tokens_BL.shape[1] :]
        with self._model.own_attention() as module, self._model.compute():
            out = module.base_model(
                input_ids=tokens_BL.to(self._model.device),
                attention_mask=self._mask_BL,
                position_ids=positions_BL,
                past_key_values=self._cache,
                use_cache=True,
                **pixels,
            )
        self._cache = out.past_key_values
        return self._model.logits(out.last_hidden_state[:, -1])
