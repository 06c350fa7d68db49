"""The fast decoder: prompts packed into one row and read once, then one token a row a step, through the model's body with our plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from keel.kernels.decode_products import NO_PRODUCTS, DecodeProducts, LinearUnit, same_inputs
from keel.kernels.positions import as_input, packed_positions
from keel.models.model import Model
from keel.rollout.plans import Cache, DecodePlan, PrefillPlan
from keel.types import Encoded, Layout

MIN_ROWS = 4  # matrix products of fewer rows take another kernel: slower for each row, and its rounding differs


class Decoder(Protocol):
    """Next-token logits of rows that grow by one token at a time."""

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int) -> Tensor:
        """Read the prompts; row i continues prompt ``prompt_B[i]``. Returns logits [B, V] float32, fresh memory."""
        ...

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to each row. Returns logits [B, V] float32, fresh memory."""
        ...

    def keep(self, alive_B: Tensor) -> Tensor:
        """Drop rows (``alive_B`` bool). Returns for each row that is left its index before."""
        ...

    def renew(self) -> None:
        """The model has new weights: copies of the old ones go; keys and values of the rows' tokens stay as the old ones made them."""
        ...

    def finish(self) -> None:
        """Let go of the memory that the rows took."""
        ...


class FastDecoder:
    """Prompt keys and values stand once for all samples of a prompt; rows that are done leave the batch."""

    def __init__(self, model: Model, prefill_tokens: int) -> None:
        """``prefill_tokens`` bounds the tokens of one prefill pass."""
        self._model = model
        self._prefill_tokens = prefill_tokens
        self._plan: DecodePlan | None = None
        self._products = NO_PRODUCTS
        self._make: Callable[[], DecodeProducts] = lambda: NO_PRODUCTS

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int) -> Tensor:
        cache = Cache([len(p) for p in prompts], max_tokens, [p.next_position for p in prompts])
        first, last_hidden = 0, list[Tensor]()
        units, head = self._model.linear_units()
        groups: list[list[LinearUnit]] = []
        while first < len(prompts):
            chunk = prompts[first : first + _how_many(prompts[first:], self._prefill_tokens)]
            with same_inputs(units if not groups else (), groups):
                last_hidden.append(self._prefill(chunk, cache, first))
            first += len(chunk)
        prompt_B = prompt_B.to(last_hidden[0].device)
        self._plan = DecodePlan(cache, prompt_B)
        hidden_QH = torch.cat(last_hidden)
        rows, dtype = len(prompt_B), self._model.compute_dtype
        self._make = lambda: DecodeProducts(groups, head, rows, max_tokens, dtype)
        self._products = self._make()
        padded = torch.cat([hidden_QH, hidden_QH[:1].expand(max(0, MIN_ROWS - len(hidden_QH)), -1)])
        return self._model.logits(padded)[prompt_B]

    def _prefill(self, prompts: Sequence[Encoded], cache: Cache, first: int) -> Tensor:
        """Hidden states [Q, H] of the last token of each prompt."""
        lengths = [len(p) for p in prompts]
        device = self._model.device
        tokens_N = torch.cat([p.tokens_T for p in prompts]).to(device)
        positions_PN = packed_positions([(p, ()) for p in prompts])
        media = tuple(ref for p in prompts for ref in p.media)
        plan = PrefillPlan.of(cache, first, [Layout(len(p), spans=p.spans) for p in prompts])
        hidden_BLH = self._model.run(tokens_N[None], as_input(positions_PN[:, None]), plan, media)
        return hidden_BLH[0, torch.tensor(lengths, device=device).cumsum(0) - 1]

    def step(self, tokens_B: Tensor) -> Tensor:
        assert self._plan is not None, "start comes first"
        with self._products.in_place():
            hidden_BLH = self._model.run(tokens_B[:, None], self._plan.positions(), self._plan)
        logits_BV = self._model.logits(hidden_BLH[:, 0], self._products.head)
        self._plan.advance()
        return logits_BV

    def keep(self, alive_B: Tensor) -> Tensor:
        assert self._plan is not None, "start comes first"
        return self._plan.keep(alive_B)

    def renew(self) -> None:
        self._products = self._make()

    def finish(self) -> None:
        self._plan, self._products, self._make = None, NO_PRODUCTS, lambda: NO_PRODUCTS


def _how_many(prompts: Sequence[Encoded], tokens: int) -> int:
    """How many of the next prompts fit into ``tokens``; at least one."""
    count, total = 0, 0
    for prompt in prompts:
        total += len(prompt)
        if count and total > tokens:
            break
        count += 1
    return count
