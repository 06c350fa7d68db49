"""Rows that come and go while others are decoded: a cache in which each row has a length of its own, and the attention plan over it.

A wave (``plans``) shares a prompt's keys among its samples and counts its steps once. Here prompts differ and rows began at different
times, so each row's prompt and answer lie one behind the other, and what lies beyond a row's length is masked.

Letters: ``R`` rows that there is room for, ``C`` tokens that there is room for, ``K`` key heads, ``W`` the longest row with its new token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.kernels.attention import AttentionOptions

_OUT_OF_SIGHT = -1e30
_PIECE = 64  # tokens by which room grows


class SlotCache:
    """Keys and values of rows, by layer. Rows that no request has (``fewest`` keeps them for the sake of products) have length 0."""

    def __init__(self, fewest: int) -> None:
        self.lengths: list[int] = []  # tokens in the cache, by row
        self.shifts: list[int] = []  # position of a row's next token, less its length
        self._fewest = fewest
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}  # keys [R, K, C, D], values [R, K, C, D]

    @property
    def rows(self) -> int:
        """Rows of a pass, empty ones included."""
        return max(len(self.lengths), self._fewest)

    @property
    def widest(self) -> int:
        return max(self.lengths, default=0)

    def add(self, lengths: Sequence[int], shifts: Sequence[int]) -> int:
        """Room for new rows, behind those that are there. Returns the first one's index; their keys are stored next."""
        first = len(self.lengths)
        self.lengths += lengths
        self.shifts += shifts
        return first

    def store_prompt(self, layer: int, prompt: int, key_KTD: Tensor, value_KTD: Tensor) -> None:
        """Keep the keys and values of row ``prompt``, from its beginning."""
        for kept, new_KTD in zip(self._room(layer, key_KTD, value_KTD, key_KTD.shape[1]), (key_KTD, value_KTD), strict=True):
            kept[prompt, :, : new_KTD.shape[1]] = new_KTD

    def append(self, layer: int, key_BKD: Tensor, value_BKD: Tensor, place_B: Tensor) -> tuple[Tensor, Tensor]:
        """Put each row's newest token at its place; keys and values of all rows, [B, K, W, D] each, views."""
        room = self._room(layer, key_BKD[:, :, None], value_BKD[:, :, None], 1)
        row_B = torch.arange(len(place_B), device=place_B.device)
        for kept, new_BKD in zip(room, (key_BKD, value_BKD), strict=True):
            kept[row_B, :, place_B] = new_BKD.to(kept.dtype)
        keys, values = (kept[: len(place_B), :, : self.widest + 1] for kept in room)
        return keys, values

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Rows that begin as another one does."""
        if not targets:
            return
        for pair in self._layers.values():
            for kept in pair:
                kept[list(targets), :, : self.lengths[source]] = kept[source, :, : self.lengths[source]].clone()

    def keep(self, alive: Sequence[bool]) -> list[int]:
        """Drop rows. Survivors from the end fill the holes; returns the old index of each row that is left."""
        count = sum(alive)
        holes = [i for i in range(count) if not alive[i]]
        movers = [i for i in range(count, len(alive)) if alive[i]]
        order = list(range(count))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
            n = self.lengths[mover]
            for pair in self._layers.values():
                for kept in pair:
                    kept[hole, :, :n] = kept[mover, :, :n]
        self.lengths, self.shifts = [self.lengths[i] for i in order], [self.shifts[i] for i in order]
        if not order:
            self._layers.clear()
        return order

    def _room(self, layer: int, key: Tensor, value: Tensor, new: int) -> tuple[Tensor, Tensor]:
        """Room for all rows with ``new`` tokens more, in the layer; ``key`` and ``value`` [_, K, _, D] or [K, _, D] say of what shape. What
        was never written is 0: a masked value must be finite."""
        rows, width = self.rows, max(self.widest + 1, new)
        old = self._layers.get(layer)
        if old is not None and old[0].shape[0] >= rows and old[0].shape[2] >= width:
            return old
        rows = rows if old is None else max(rows, min(2 * old[0].shape[0], rows + 16))
        room = -(-width * 5 // 4 // _PIECE) * _PIECE
        made = tuple(x.new_zeros(rows, x.shape[-3], room, x.shape[-1], dtype=_kept(x)) for x in (key, value))
        if old is not None:
            for target, source in zip(made, old, strict=True):
                r, c = min(rows, source.shape[0]), min(room, source.shape[2])
                target[:r, :, :c] = source[:r, :, :c]
        self._layers[layer] = made[0], made[1]
        return self._layers[layer]


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Some rows of a cache, for a prefill that counts its prompts from 0."""

    cache: SlotCache
    rows: Sequence[int]

    def store_prompt(self, layer: int, prompt: int, key_KTD: Tensor, value_KTD: Tensor) -> None:
        self.cache.store_prompt(layer, self.rows[prompt], key_KTD, value_KTD)


class SlotPlan:
    """One new token a row, each at its own place. An ``AttentionPlan`` of one pass."""

    def __init__(self, cache: SlotCache, device: torch.device) -> None:
        self.cache = cache
        missing = [0] * (cache.rows - len(cache.lengths))
        self.place_B = torch.tensor([*cache.lengths, *missing], device=device)
        self._shift_B = torch.tensor([*cache.shifts, *missing], device=device)
        self._biases: dict[int | None, Tensor] = {}

    def positions(self) -> Tensor:
        """Position of each row's new token, [B, 1]."""
        return (self.place_B + self._shift_B)[:, None]

    def advance(self) -> None:
        """The new tokens have passed all layers."""
        self.cache.lengths = [n + 1 for n in self.cache.lengths]

    def attend(self, layer: int, query_BHLD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, options: AttentionOptions) -> Tensor:
        """Attention's output [B, 1, H, D] of one new token a row."""
        if torch.is_autocast_enabled("cpu") and query_BHLD.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._attend(layer, query_BHLD.float(), key_BKLD, value_BKLD, options)
        return self._attend(layer, query_BHLD, key_BKLD, value_BKLD, options)

    def _attend(self, layer: int, query_BHLD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, options: AttentionOptions) -> Tensor:
        rows, heads, length, dim = query_BHLD.shape
        assert length == 1, "decoding takes one token a row"
        key_heads = key_BKLD.shape[1]
        repeat = heads // key_heads
        keys, values = self.cache.append(layer, key_BKLD[:, :, 0], value_BKLD[:, :, 0], self.place_B)
        query_XRD = (query_BHLD * options.scaling).reshape(rows * key_heads, repeat, dim).to(keys.dtype)
        scores_XRW = torch.bmm(query_XRD, keys.flatten(0, 1).transpose(1, 2)).float()
        if options.softcap is not None:
            scores_XRW = torch.tanh(scores_XRW / options.softcap) * options.softcap
        scores = scores_XRW.view(rows, key_heads, repeat, -1) + self._bias(options.sliding_window)
        if options.sinks_H is not None:
            sinks_KR1 = options.sinks_H.float().view(1, key_heads, repeat, 1)
            scores = torch.cat([scores, sinks_KR1.expand(rows, -1, -1, -1)], -1)
        weights = scores.softmax(-1)[..., : keys.shape[2]].to(values.dtype)
        out = torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).float()
        return out.to(value_BKLD.dtype).view(rows, 1, heads, -1)

    def _bias(self, window: int | None) -> Tensor:
        """What each row's new token does not see: beyond itself, or left of the window. [B, 1, 1, W], the same for all layers."""
        if window not in self._biases:
            at_W = torch.arange(self.cache.widest + 1, device=self.place_B.device)
            hidden_BW = at_W > self.place_B[:, None]
            if window is not None:
                hidden_BW = hidden_BW | (at_W <= self.place_B[:, None] - window)
            self._biases[window] = torch.zeros(hidden_BW.shape, device=hidden_BW.device).masked_fill_(hidden_BW, _OUT_OF_SIGHT)[
                :, None, None
            ]
        return self._biases[window]


def _kept(x: Tensor) -> torch.dtype:
    """The precision that keys and values are kept in: on a CPU float32, whatever the model computes in."""
    return torch.float32 if x.device.type == "cpu" else x.dtype
