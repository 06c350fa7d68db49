"""Continuous batching: requests join the rows that are being decoded and leave when they are done, so that nobody waits for a wave to end.

``ContinuousSampler.advance(new)`` is one step of all rows: one token each, of the distributions that they asked for. Who asked decides when
a row has said enough (``drop``). The random numbers are those of ``LocalSampler``: a row draws what it would have drawn there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from keel.core.hashing import uniform
from keel.kernels.decode_products import NO_PRODUCTS, DecodeProducts, LinearUnit, same_inputs
from keel.kernels.positions import as_input, packed_positions
from keel.models.model import Model
from keel.render.conversation import extended
from keel.rollout.decode import MIN_ROWS
from keel.rollout.distribution import RowParams, draw
from keel.rollout.plain import PlainDecoder
from keel.rollout.plans import PrefillPlan
from keel.rollout.slots import RowsOf, SlotCache, SlotPlan
from keel.types import Encoded, Layout, SamplingParams

_ALWAYS = 1 << 16  # steps for which products of weights are prepared: they serve as long as the model is loaded


@dataclass(frozen=True, slots=True)
class RowAsk:
    """One answer to draw. ``key`` is what its random numbers hang on; ``said`` is how the answer begins already: it goes on from there,
    with the numbers that come next. ``top``: how many of the likeliest tokens to tell at each step, under the model's own distribution."""

    name: str
    prompt: Encoded
    params: SamplingParams
    key: int
    said: tuple[int, ...] = ()
    top: int | None = None


@dataclass(frozen=True, slots=True)
class RowToken:
    """One row's newest token. ``logprob`` and ``top`` (id, log-probability) are of the model's own distribution, at temperature 1 and
    uncut, where they were asked for. ``error``: the logits were not finite, and there is no token."""

    name: str
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""


class RowDecoder(Protocol):
    """Next-token logits of rows that come, grow by one token at a time, and go."""

    def join(self, prompts: Sequence[Encoded]) -> Tensor:
        """Read the prompts of new rows, which stand behind the others. Returns their logits [Q, V] float32, fresh memory."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row. Returns logits [B, V] float32, fresh memory."""
        ...

    def keep(self, alive: Sequence[bool]) -> list[int]:
        """Drop rows. Returns for each row that is left its index before."""
        ...


class SlotDecoder:
    """By ``SlotCache``: all rows in one pass."""

    def __init__(self, model: Model, rows: int) -> None:
        """``rows``: how many there will be at most."""
        self._model, self._most = model, max(rows, MIN_ROWS)
        self._cache = SlotCache(MIN_ROWS)
        self._products: DecodeProducts | None = None

    def join(self, prompts: Sequence[Encoded]) -> Tensor:
        unique, which = _distinct(prompts)
        first = self._cache.add([len(p) for p in prompts], [p.next_position - len(p) for p in prompts])
        logits_UV = self._read([prompts[i] for i in unique], [first + i for i in unique])
        for u, i in enumerate(unique):
            self._cache.copy(first + i, [first + q for q, of in enumerate(which) if of == u and q != i])
        return logits_UV[torch.tensor(which, device=logits_UV.device)]

    def _read(self, prompts: Sequence[Encoded], rows: Sequence[int]) -> Tensor:
        """Logits behind each of these prompts, [U, V]; their keys go into these rows."""
        model, device = self._model, self._model.device
        tokens_N = torch.cat([p.tokens_T for p in prompts]).to(device)
        positions = as_input(packed_positions([(p, ()) for p in prompts])[:, None])
        plan = PrefillPlan.of(RowsOf(self._cache, rows), 0, [Layout(len(p), spans=p.spans) for p in prompts])
        units, head = model.linear_units()
        groups: list[list[LinearUnit]] = []
        with same_inputs(units if self._products is None else (), groups):
            hidden_BLH = model.run(tokens_N[None], positions, plan, tuple(ref for p in prompts for ref in p.media))
        if self._products is None:
            self._products = DecodeProducts(groups, head, self._most, _ALWAYS, model.compute_dtype)
        hidden_QH = hidden_BLH[0, torch.tensor([len(p) for p in prompts], device=device).cumsum(0) - 1]
        padded = torch.cat([hidden_QH, hidden_QH[:1].expand(max(0, MIN_ROWS - len(hidden_QH)), -1)])
        return model.logits(padded)[: len(prompts)]

    def step(self, tokens: Sequence[int]) -> Tensor:
        model, plan = self._model, SlotPlan(self._cache, self._model.device)
        tokens_B = torch.tensor([*tokens, *[0] * (self._cache.rows - len(tokens))], device=model.device)
        products = self._products or NO_PRODUCTS
        with products.in_place():
            hidden_BLH = model.run(tokens_B[:, None], plan.positions(), plan)
        logits_BV = model.logits(hidden_BLH[:, 0], products.head)
        plan.advance()
        return logits_BV[: len(tokens)]

    def keep(self, alive: Sequence[bool]) -> list[int]:
        return self._cache.keep(alive)


class PlainRows:
    """For models whose fast path is not proven: each row by itself, with the model's own attention."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rows: list[PlainDecoder] = []

    def join(self, prompts: Sequence[Encoded]) -> Tensor:
        new = [PlainDecoder(self._model) for _ in prompts]
        self._rows += new
        return torch.cat([row.start([p], torch.zeros(1, dtype=torch.int64), 0) for row, p in zip(new, prompts, strict=True)])

    def step(self, tokens: Sequence[int]) -> Tensor:
        device = self._model.device
        return torch.cat([row.step(torch.tensor([token], device=device)) for row, token in zip(self._rows, tokens, strict=True)])

    def keep(self, alive: Sequence[bool]) -> list[int]:
        order = [i for i, lives in enumerate(alive) if lives]
        self._rows = [self._rows[i] for i in order]
        return order


@dataclass(slots=True)
class _Live:
    ask: RowAsk
    drawn: int  # tokens of the answer so far
    token: int  # the newest


class ContinuousSampler:
    """The rows that are being decoded. ``max_rows`` is for whoever feeds it to keep."""

    def __init__(self, model: Model, fast: bool, max_rows: int) -> None:
        """``fast``: the slots' path was proven on this model (``prove.prove_slots``)."""
        self._model = model
        self._decoder: RowDecoder = SlotDecoder(model, max_rows) if fast else PlainRows(model)
        self._rows: list[_Live] = []

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def advance(self, new: Sequence[RowAsk] = ()) -> list[RowToken]:
        """One token for each row that is there, and the first one for each of ``new``. A row with an error is gone."""
        found: list[RowToken] = []
        with self._model.compute():
            if self._rows:
                logits_BV = self._decoder.step([row.token for row in self._rows])
                found += self._draw(logits_BV, self._rows)
            if new:
                logits_QV = self._decoder.join([extended(ask.prompt, torch.tensor(ask.said, dtype=torch.int64)) for ask in new])
                rows = [_Live(ask, len(ask.said), 0) for ask in new]
                found += self._draw(logits_QV, rows)
                self._rows += rows
        self.drop({token.name for token in found if token.error})
        return found

    def drop(self, names: Collection[str]) -> None:
        """These rows have said enough, or nobody listens any more."""
        alive = [row.ask.name not in names for row in self._rows]
        if not all(alive):
            self._rows = [self._rows[i] for i in self._decoder.keep(alive)]

    def _draw(self, logits_BV: Tensor, rows: Sequence[_Live]) -> list[RowToken]:
        told = [i for i, row in enumerate(rows) if row.ask.top is not None]
        own_TV = logits_BV[told].log_softmax(-1) if told else None
        params = RowParams.of([_drawing(row.ask.params) for row in rows], logits_BV.device)
        keys, steps = np.array([row.ask.key for row in rows], dtype=np.uint64), np.array([row.drawn for row in rows], dtype=np.uint64)
        drawn = draw(logits_BV, params, 0, torch.from_numpy(uniform(keys, steps)).to(logits_BV.device))
        tokens, finite = drawn.tokens_B.tolist(), drawn.finite_B.tolist()
        found: list[RowToken] = []
        for i, row in enumerate(rows):
            name = row.ask.name
            if not finite[i]:
                found.append(RowToken(name, -1, error=f"the model's logits for token {row.drawn} are not finite, or every token is banned"))
                continue
            row.token, row.drawn = tokens[i], row.drawn + 1
            if own_TV is None or row.ask.top is None:
                found.append(RowToken(name, tokens[i]))
                continue
            own_V = own_TV[told.index(i)]
            best = own_V.topk(row.ask.top) if row.ask.top else None
            top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best is not None else ()
            found.append(RowToken(name, tokens[i], float(own_V[tokens[i]]), top))
        return found


def _drawing(params: SamplingParams) -> SamplingParams:
    """What of the parameters the distribution hangs on: rows with the same are drawn together."""
    return SamplingParams(
        temperature=params.temperature, top_p=params.top_p, top_k=params.top_k, banned_tokens=params.banned_tokens, max_tokens=1
    )


def _distinct(prompts: Sequence[Encoded]) -> tuple[list[int], list[int]]:
    """Where each different prompt stands first, and which of them each row has."""
    index: dict[tuple[bytes, tuple[str, ...]], int] = {}
    unique, which = list[int](), list[int]()
    for i, prompt in enumerate(prompts):
        key = (prompt.tokens_T.numpy().tobytes(), tuple(ref.digest for ref in prompt.media))
        if key not in index:
            index[key] = len(unique)
            unique.append(i)
        which.append(index[key])
    return unique, which
