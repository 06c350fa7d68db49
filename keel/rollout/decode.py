"""The fast decoder: prompts packed into one row and read once, then one token a row a step, through the model's body with our plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from keel.kernels.decode_products import NO_PRODUCTS, DecodeProducts, LinearUnit, same_inputs
from keel.kernels.positions import as_input, packed_positions
from keel.models.model import Model
from keel.rollout.kept import Beginning
from keel.rollout.plans import Cache, ContinuedPlan, DecodePlan, PrefillPlan
from keel.types import Encoded, Layout

Layers = Mapping[int, tuple[Tensor, Tensor]]
MIN_ROWS = 4  # matrix products of fewer rows take another kernel: slower for each row, and its rounding differs


class Decoder(Protocol):
    """Next-token logits of rows that grow by one token at a time."""

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int, beginnings: Sequence[Beginning | None] = ()) -> Tensor:
        """Read the prompts; row i continues prompt ``prompt_B[i]``. Returns logits [B, V] float32, fresh memory. What was read before of a
        prompt may be given, one place a prompt."""
        ...

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to each row. Returns logits [B, V] float32, fresh memory."""
        ...

    def keep(self, alive_B: Tensor) -> Tensor:
        """Drop rows (``alive_B`` bool). Returns for each row that is left its index before."""
        ...

    def beginning(self, row: int) -> Layers | None:
        """Keys and values of all that row ``row`` has read; None where they cannot be had."""
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

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int, beginnings: Sequence[Beginning | None] = ()) -> Tensor:
        cache = Cache([len(p) for p in prompts], max_tokens, [p.next_position for p in prompts])
        last_hidden = list[Tensor]()
        units, head = self._model.linear_units()
        groups: list[list[LinearUnit]] = []
        for part in _passes(prompts, beginnings or [None] * len(prompts), self._prefill_tokens):
            with same_inputs(units if not groups else (), groups):
                last_hidden.append(self._prefill(part, cache))
        prompt_B = prompt_B.to(last_hidden[0].device)
        self._plan = DecodePlan(cache, prompt_B)
        hidden_QH = torch.cat(last_hidden)
        rows, dtype = len(prompt_B), self._model.compute_dtype
        self._make = lambda: DecodeProducts(groups, head, rows, max_tokens, dtype)
        self._products = self._make()
        padded = torch.cat([hidden_QH, hidden_QH[:1].expand(max(0, MIN_ROWS - len(hidden_QH)), -1)])
        return self._model.logits(padded)[prompt_B]

    def _prefill(self, part: _Pass, cache: Cache) -> Tensor:
        """Hidden states [Q, H] of the last token of each prompt."""
        device = self._model.device
        ends_N = torch.cat([p.tokens_T[n:] for p, n in zip(part.prompts, part.read, strict=True)]).to(device)
        positions_PN = packed_positions([(p, ()) for p in part.prompts])
        if part.layers:
            whole = positions_PN.split([len(p) for p in part.prompts], 1)
            positions_PN = torch.cat([x[:, n:] for x, n in zip(whole, part.read, strict=True)], 1)
            plan, media = ContinuedPlan(cache, part.first, part.lengths, part.layers), ()
        else:
            plan = PrefillPlan.of(cache, part.first, [Layout(len(p), spans=p.spans) for p in part.prompts])
            media = tuple(ref for p in part.prompts for ref in p.media)
        hidden_BLH = self._model.run(ends_N[None], as_input(positions_PN[:, None]), plan, media)
        return hidden_BLH[0, torch.tensor(part.lengths, device=device).cumsum(0) - 1]

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

    def beginning(self, row: int) -> Layers | None:
        assert self._plan is not None, "start comes first"
        return self._plan.cache.row(row, int(self._plan.prompt_B[row]))

    def renew(self) -> None:
        self._products = self._make()

    def finish(self) -> None:
        self._plan, self._products, self._make = None, NO_PRODUCTS, lambda: NO_PRODUCTS


@dataclass(frozen=True, slots=True)
class _Pass:
    """Prompts that are read at once, from number ``first`` on, behind the ``read`` first tokens of each. ``layers``: keys and values of
    those; empty where nothing was read before."""

    first: int
    prompts: Sequence[Encoded]
    read: Sequence[int]
    layers: Sequence[Layers]

    @property
    def lengths(self) -> list[int]:
        """Tokens to read."""
        return [len(p) - n for p, n in zip(self.prompts, self.read, strict=True)]


def _passes(prompts: Sequence[Encoded], beginnings: Sequence[Beginning | None], tokens: int) -> Iterator[_Pass]:
    """Neighbours together, ``tokens`` tokens at most (one prompt at least), those with a beginning apart from those without."""
    read = [0 if b is None else len(b.text) for b in beginnings]
    first = 0
    while first < len(prompts):
        last, total = first, 0
        while last < len(prompts) and (beginnings[last] is None) == (beginnings[first] is None):
            total += len(prompts[last]) - read[last]
            if total > tokens and last > first:
                break
            last += 1
        yield _Pass(first, prompts[first:last], read[first:last], [b.layers for b in beginnings[first:last] if b is not None])
        first = last
