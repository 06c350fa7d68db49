"""Attention plans of the sampler, and the cache that they share: a prompt's keys and values stand once for all of its samples.

On a CPU the cache and the products of decoding are in float32, whatever the model computes in: a product of few rows in bfloat16 takes two
to five times as long there.

Letters beside those of ``types``: ``P`` padded prompt length, ``C`` capacity of a completion's cache, ``Q`` prompts, ``K`` key heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from keel.kernels.attention import AttentionOptions, PackedPlan, attention
from keel.types import Layout

_OUT_OF_SIGHT = -1e30  # finite, so that a prompt wholly outside the window gives weight 0 and not NaN
_FIRST_CAPACITY = 64


class Cache:
    """Keys and values of one wave of rows, by layer. Completions grow in steps; ``keep`` drops rows."""

    def __init__(self, prompt_lengths: Sequence[int], max_tokens: int, next_positions: Sequence[int] = ()) -> None:
        """``next_positions``: where the completions of each prompt go on; by default behind its last token."""
        self.prompt_lengths = list(prompt_lengths)
        self.next_positions = list(next_positions) or list(prompt_lengths)
        self.longest = max(prompt_lengths)
        self.length = 0  # completion tokens in the cache, the same for every row
        self.prompts: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> keys [Q, K, D, P], values [Q, K, P, D]
        self._completions: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> keys, values [B, K, C, D]
        self._max_tokens = max_tokens

    def store_prompt(self, layer: int, prompt: int, key_KTD: Tensor, value_KTD: Tensor) -> None:
        """Keep one prompt's keys and values. What lies beyond its length is zero and masked."""
        if layer not in self.prompts:
            (heads, _, dim), value_dim = key_KTD.shape, value_KTD.shape[2]
            count = len(self.prompt_lengths)
            keys = key_KTD.new_zeros(count, heads, dim, self.longest, dtype=_kept(key_KTD))
            self.prompts[layer] = keys, value_KTD.new_zeros(count, heads, self.longest, value_dim, dtype=_kept(value_KTD))
        keys_QKDP, values_QKPD = self.prompts[layer]
        keys_QKDP[prompt, :, :, : key_KTD.shape[1]] = key_KTD.transpose(1, 2)
        values_QKPD[prompt, :, : key_KTD.shape[1]] = value_KTD

    def append(self, layer: int, key_BKD: Tensor, value_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Add each row's newest token and return keys and values of its completion so far, [B, K, length + 1, D] each."""
        rows, heads, _ = key_BKD.shape
        old = self._completions.get(layer)
        if old is None or old[0].shape[2] == self.length:
            capacity = min(self._max_tokens, max(_FIRST_CAPACITY, 2 * self.length))
            key_new, value_new = (x.new_empty(rows, heads, capacity, x.shape[2], dtype=_kept(x)) for x in (key_BKD, value_BKD))
            new = key_new, value_new
            if old is not None:
                for target, source in zip(new, old, strict=True):
                    target[:, :, : self.length] = source[:rows]
            self._completions[layer] = new
        keys_BKCD, values_BKCD = self._completions[layer]
        keys_BKCD[:rows, :, self.length] = key_BKD
        values_BKCD[:rows, :, self.length] = value_BKD
        return keys_BKCD[:rows, :, : self.length + 1], values_BKCD[:rows, :, : self.length + 1]

    def move(self, source_M: Tensor, target_M: Tensor) -> None:
        """Copy rows onto rows that are no longer needed."""
        for pair in self._completions.values():
            for cached in pair:
                cached[target_M, :, : self.length] = cached[source_M, :, : self.length]

    def row(self, row: int, prompt: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values [K, T, D] of all that a row has read: its prompt, and its completion so far."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        n = self.prompt_lengths[prompt]
        for layer, (keys_QKDP, values_QKPD) in self.prompts.items():
            key_KTD, value_KTD = keys_QKDP[prompt, :, :, :n].transpose(1, 2), values_QKPD[prompt, :, :n]
            if layer in self._completions:
                own_key, own_value = (x[row, :, : self.length] for x in self._completions[layer])
                key_KTD, value_KTD = torch.cat([key_KTD, own_key], 1), torch.cat([value_KTD, own_value], 1)
            found[layer] = key_KTD.clone(), value_KTD.clone()
        return found

    def keep_prompts(self, prompts_Q: Tensor) -> None:
        """Drop the prompts that are not listed."""
        kept = prompts_Q.tolist()
        self.prompt_lengths = [self.prompt_lengths[q] for q in kept]
        self.next_positions = [self.next_positions[q] for q in kept]
        self.prompts = {layer: (keys[prompts_Q], values[prompts_Q]) for layer, (keys, values) in self.prompts.items()}


class PromptKeys(Protocol):
    """Where a prefill puts what it computes."""

    def store_prompt(self, layer: int, prompt: int, key_KTD: Tensor, value_KTD: Tensor) -> None: ...


@dataclass(slots=True)
class PrefillPlan:
    """Prompts packed into one row; attention as in training, and what it computes is kept. ``first`` is the first prompt's index."""

    cache: PromptKeys
    first: int
    packed: PackedPlan

    @classmethod
    def of(cls, cache: PromptKeys, first: int, prompts: Sequence[Layout]) -> PrefillPlan:
        """For these prompts, which are numbers ``first``, ``first + 1`` ... of the cache."""
        return cls(cache, first, PackedPlan(prompts))

    def attend(self, layer: int, query_BHLD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, options: AttentionOptions) -> Tensor:
        """Attention's output [1, N, H, D]; the keys and values go into the cache."""
        lengths = [group.prompt for group in self.packed.groups]
        for offset, (key, value) in enumerate(zip(key_BKLD[0].split(lengths, 1), value_BKLD[0].split(lengths, 1), strict=True)):
            self.cache.store_prompt(layer, self.first + offset, key, value)
        return self.packed.attend(layer, query_BHLD, key_BKLD, value_BKLD, options)


@dataclass(slots=True)
class ContinuedPlan:
    """Packed ends of prompts whose beginnings were read before: ``beginnings`` are their keys and values [K, T, D] by layer. ``first`` is
    the first prompt's index. The ends hold no images."""

    cache: PromptKeys
    first: int
    lengths: Sequence[int]  # of the ends
    beginnings: Sequence[Mapping[int, tuple[Tensor, Tensor]]]
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict[tuple[int, "int | None"], Tensor], init=False)

    def attend(self, layer: int, query_BHLD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, options: AttentionOptions) -> Tensor:
        """Attention's output [1, N, H, D]; the keys and values of whole prompts go into the cache."""
        out: list[Tensor] = []
        parts = zip(*(x[0].split(list(self.lengths), 1) for x in (query_BHLD, key_BKLD, value_BKLD)), strict=True)
        for i, (query_HLD, key_KLD, value_KLD) in enumerate(parts):
            before = self.beginnings[i][layer]
            key, value = (torch.cat([old, new.to(old.dtype)], 1) for old, new in zip(before, (key_KLD, value_KLD), strict=True))
            self.cache.store_prompt(layer, self.first + i, key, value)
            mask = self._mask(i, key.shape[1], options.sliding_window, key.device)
            seen = key.to(query_HLD.dtype)[None], value.to(value_KLD.dtype)[None]
            out.append(attention(query_HLD[None], *seen, mask, options)[0].transpose(0, 1))
        return torch.cat(out)[None]

    def _mask(self, prompt: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """Which keys each token of a prompt's end sees, bool [L, T]; the same for all layers."""
        if (prompt, window) not in self._masks:
            place_L1 = torch.arange(keys - self.lengths[prompt], keys, device=device)[:, None]
            place_T = torch.arange(keys, device=device)
            mask_LT = place_T <= place_L1
            self._masks[(prompt, window)] = mask_LT if window is None else mask_LT & (place_L1 - place_T < window)
        return self._masks[(prompt, window)]


class DecodePlan:
    """One new token a row: each row sees its prompt, which it shares, and its own completion.

    Queries of one prompt are gathered side by side, so that a prompt's keys are read once for all of its samples (a product
    [group x heads, D] x [D, P]); completions are products of their own. The scores of both are laid side by side for one softmax.
    """

    def __init__(self, cache: Cache, prompt_B: Tensor) -> None:
        """``prompt_B`` int64: the prompt of each row."""
        self.cache = cache
        self.prompt_B = prompt_B
        self._grids: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._biases: dict[tuple[int | None, int], Tensor] = {}

    def positions(self) -> Tensor:
        """Position of each row's new token, [B, 1]; where a model counts in three rows, all three."""
        following_Q = torch.tensor(self.cache.next_positions, device=self.prompt_B.device)
        return (following_Q[self.prompt_B] + self.cache.length)[:, None]

    def advance(self) -> None:
        """The new token has passed all layers."""
        self.cache.length += 1
        self._biases = {key: bias for key, bias in self._biases.items() if key[0] is None}  # a window moves on

    def keep(self, alive_B: Tensor) -> Tensor:
        """Drop rows. Survivors from the end fill the holes; returns the old index of each row that is left."""
        count = int(alive_B.sum())
        order_B = torch.arange(count, device=alive_B.device)
        holes_M, movers_M = (~alive_B[:count]).nonzero()[:, 0], alive_B[count:].nonzero()[:, 0] + count
        order_B[holes_M] = movers_M
        if len(holes_M):
            self.cache.move(movers_M, holes_M)
        self.prompt_B = self.prompt_B[order_B]
        used_Q, compact_B = torch.unique(self.prompt_B, return_inverse=True)
        if len(used_Q) <= 0.75 * len(self.cache.prompt_lengths):  # copying prompts costs about one step's reading of them
            self.cache.keep_prompts(used_Q)
            self.prompt_B = compact_B
            self._biases.clear()
        self._grids.clear()
        return order_B

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
        query_XRD = (query_BHLD * options.scaling).reshape(rows * key_heads, repeat, dim)
        keys, values = self.cache.append(layer, key_BKLD[:, :, 0], value_BKLD[:, :, 0])
        if options.sliding_window is not None:
            keys, values = keys[:, :, -options.sliding_window :], values[:, :, -options.sliding_window :]
        prompt_keys, prompt_values = (x.flatten(0, 1) for x in self.cache.prompts[layer])
        to_grid, from_grid, width = self._grid(key_heads)
        queries = _regrouped(query_XRD, to_grid, width)
        shared = _scores(queries, prompt_keys, options.softcap).add_(self._bias(options.sliding_window, key_heads))
        own = _scores(query_XRD, keys.flatten(0, 1).transpose(1, 2), options.softcap)
        scores = [_regrouped(shared, from_grid, 1, repeat), own]
        if options.sinks_H is not None:
            sinks_KR1 = options.sinks_H.float().view(1, key_heads, repeat, 1)
            scores.append(sinks_KR1.expand(rows, -1, -1, -1).reshape(-1, repeat, 1))
        weights = torch.cat(scores, -1).softmax(-1).to(values.dtype)
        seen, longest = keys.shape[2], prompt_keys.shape[2]
        from_prompt = torch.bmm(_regrouped(weights[..., :longest], to_grid, width), prompt_values).float()
        from_own = torch.bmm(weights[..., longest : longest + seen], values.flatten(0, 1)).float()
        joined = from_own + _regrouped(from_prompt, from_grid, 1, repeat)
        return joined.to(value_BKLD.dtype).view(rows, 1, heads, -1)

    def _grid(self, key_heads: int) -> tuple[Tensor, Tensor, int]:
        """Index of (row, head) at each place of the grid [prompt, head, member], of the place of each (row, head), and members a prompt."""
        if key_heads not in self._grids:
            prompt_B, device = self.prompt_B, self.prompt_B.device
            prompts = len(self.cache.prompt_lengths)
            order = torch.argsort(prompt_B, stable=True)
            counts = torch.bincount(prompt_B, minlength=prompts)
            width = int(counts.max())
            member_B = torch.empty_like(prompt_B)
            member_B[order] = torch.arange(len(prompt_B), device=device) - (counts.cumsum(0) - counts)[prompt_B[order]]
            head_K = torch.arange(key_heads, device=device)
            from_grid = ((prompt_B[:, None] * key_heads + head_K) * width + member_B[:, None]).flatten()
            to_grid = torch.zeros(prompts * key_heads * width, dtype=torch.int64, device=device)  # an empty place repeats row 0
            to_grid[from_grid] = torch.arange(len(prompt_B) * key_heads, device=device)
            self._grids[key_heads] = to_grid, from_grid, width
        return self._grids[key_heads]

    def _bias(self, window: int | None, key_heads: int) -> Tensor:
        """What each prompt's new tokens do not see: beyond its length, or left of the window. [Q * K, 1, P], the same for all layers."""
        if (window, key_heads) not in self._biases:
            lengths_Q1 = torch.tensor(self.cache.prompt_lengths, device=self.prompt_B.device)[:, None]
            position_P = torch.arange(self.cache.longest, device=self.prompt_B.device)
            hidden_QP = position_P >= lengths_Q1
            if window is not None:
                hidden_QP = hidden_QP | (lengths_Q1 + self.cache.length - position_P >= window)
            bias_QP = torch.zeros(hidden_QP.shape, device=hidden_QP.device).masked_fill_(hidden_QP, _OUT_OF_SIGHT)
            self._biases[(window, key_heads)] = bias_QP.repeat_interleave(key_heads, 0)[:, None]
        return self._biases[(window, key_heads)]


def _kept(x: Tensor) -> torch.dtype:
    """The precision that keys and values are kept in."""
    return torch.float32 if x.device.type == "cpu" else x.dtype


def _scores(query_XRD: Tensor, key_XDT: Tensor, softcap: float | None) -> Tensor:
    scores_XRT = torch.bmm(query_XRD, key_XDT).float()
    return scores_XRT if softcap is None else torch.tanh(scores_XRT / softcap) * softcap


def _regrouped(x: Tensor, index: Tensor, width: int, rows: int = 0) -> Tensor:
    """Entries of ``x`` [X, R, Z], a (row, head) each, picked by ``index``, ``width`` to a group: [-1, width * R, Z]. With ``rows`` (R)
    ``x`` is grouped and comes apart again."""
    last = x.shape[-1]
    height = rows or x.shape[1]
    return x.reshape(-1, height * last).index_select(0, index).view(-1, width * height, last)
