"""One attention function, registered with transformers under the name ``keel``, for every decoder that transformers has.

What it computes is decided by the *plan* that is handed through the model's keyword arguments (``keel_plan=``): packed rows with shared
prompts for training, prefill and decode for sampling. The plan owns the cache, so the model runs with ``use_cache=False`` and no mask.
``PackedPlan`` is that of packed rows: each unit's prompt once, every branch attends to the prompt and to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface

from keel.kernels.row_attention import RowAttention, RowRule, usable
from keel.types import Layout

NAME = "keel"

# Keyword arguments that transformers hands to attention functions and that do not change what attention computes under a plan.
_HARMLESS = frozenset(
    {"position_ids", "position_embeddings", "use_cache", "cache_position", "output_attentions", "output_hidden_states", "return_dict"}
    | {"past_key_values", "past_key_value", "is_causal", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "token_type_ids"}
    | {"num_items_in_batch", "output_router_logits", "layer_idx", "mm_token_type_ids"}
)


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What an architecture asks of attention beyond softmax(q k^T) v."""

    scaling: float
    sliding_window: int | None = None  # a query sees the ``sliding_window`` last positions, itself included
    softcap: float | None = None  # scores -> softcap * tanh(scores / softcap), before the mask
    sinks_H: Tensor | None = None  # one extra logit a head in the softmax's denominator


class AttentionPlan(Protocol):
    """How tokens attend to each other in one forward pass."""

    def attend(self, layer: int, query_BHLD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, options: AttentionOptions) -> Tensor:
        """Return the attention's output [B, L, H, D]. K divides H (grouped queries)."""
        ...


def keel_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    keel_plan: AttentionPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """The registered function. Refuses what it does not know, so that an architecture is never silently computed wrongly."""
    unknown = sorted(k for k, v in extra.items() if v is not None and v is not False and k not in _HARMLESS)
    if keel_plan is None or unknown or dropout:
        raise NotImplementedError(f"attention plan missing, dropout on, or unknown keywords: {unknown}")
    options = AttentionOptions(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    return keel_plan.attend(int(module.layer_idx), query, key, value, options), None  # type: ignore[arg-type]


def _no_mask(*_: Any, **__: Any) -> None:
    """Plans mask by lengths themselves."""


def register() -> None:
    """Make ``attn_implementation="keel"`` known to transformers. Idempotent."""
    AttentionInterface.register(NAME, keel_attention)
    AttentionMaskInterface.register(NAME, _no_mask)  # type: ignore[arg-type]


register()


_PADDED_KEYS = 1 << 20  # branch x key slots in one call at most: bounds the copies of a long prompt
_MaskKey = tuple[int, int, int]  # first query's place, queries, keys
Spans = tuple[tuple[int, int], ...]  # [first, end) each


@dataclass(slots=True)
class PackedPlan:
    """The attention plan of one packed row. ``groups`` as in ``Batch``, in packed order.

    Every token sees what is before it (within the window, where there is one); tokens of one span of a prompt see each other as well.
    """

    groups: Sequence[Layout]
    _masks: dict[tuple[_MaskKey, int | None, Spans, torch.device], Tensor] = field(default_factory=dict, init=False)
    _indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = field(default_factory=dict, init=False)
    _row: RowAttention | None = field(default=None, init=False)  # on a GPU: all units in one call

    def attend(self, layer: int, query_BHLD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, options: AttentionOptions) -> Tensor:
        """Attention's output [1, N, H, D] for one packed row (B = 1, L = N)."""
        assert query_BHLD.shape[0] == 1, "a packed batch is one row"
        if query_BHLD.is_cuda and usable(str(query_BHLD.device)):
            if self._row is None:
                self._row = RowAttention(RowRule.of(self.groups, query_BHLD.device))
            dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value_BKLD.dtype
            asked = options.scaling, options.sliding_window, options.softcap, options.sinks_H
            return self._row(query_BHLD.to(dtype), key_BKLD.to(dtype), value_BKLD.to(dtype), *asked).transpose(1, 2)
        lengths = [n for group in self.groups for n in group.lengths]
        queries, keys, values = (x[0].transpose(0, 1).split(lengths) for x in (query_BHLD, key_BKLD, value_BKLD))
        out: list[Tensor] = []
        at = 0
        for group in self.groups:
            part = slice(at, at + len(group.lengths))
            out += self._unit(queries[part], keys[part], values[part], options, group.spans)
            at = part.stop
        return torch.cat(out)[None]

    def _unit(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], options: AttentionOptions, spans: Spans
    ) -> list[Tensor]:
        """Outputs [n, H, D] of the prompt and of each branch; the inputs are [n, H, D] or [n, K, D] each, prompt first."""
        if len(queries) == 2:  # one branch: prompt and branch are one causal sequence
            whole = self._causal(torch.cat(list(queries)), torch.cat(list(keys)), torch.cat(list(values)), options, spans)
            return list(whole.split([len(q) for q in queries]))
        out = [self._causal(queries[0], keys[0], values[0], options, spans)]
        prompt = len(queries[0])
        order = sorted(range(1, len(queries)), key=lambda i: len(queries[i]))
        branch_outputs: dict[int, Tensor] = {}
        while order:
            longest = len(queries[order[-1]])
            room = max(1, _PADDED_KEYS // max(1, prompt + longest))
            # branches of similar length share a call, so that little of it is padding
            chosen = [i for i in order[-room:] if 2 * len(queries[i]) >= longest] if longest else order[-1:]
            order = order[: len(order) - len(chosen)]
            q, k, v = ([x[i] for i in chosen] for x in (queries, keys, values))
            results = self._branches((keys[0], values[0]), q, k, v, options)
            branch_outputs.update(zip(chosen, results))
        return out + [branch_outputs[i] for i in range(1, len(queries))]

    def _causal(self, query_NHD: Tensor, key_NKD: Tensor, value_NKD: Tensor, options: AttentionOptions, spans: Spans) -> Tensor:
        n = len(query_NHD)
        query, key, value = (x.transpose(0, 1)[None] for x in (query_NHD, key_NKD, value_NKD))
        window = _window(options, n)
        causal = window is None and not spans and _is_simple(options)
        mask = None if causal else self._mask((0, n, n), window, query.device, spans)
        return attention(query, key, value, mask, options)[0].transpose(0, 1)

    def _branches(
        self,
        prompt: Sequence[Tensor],
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        options: AttentionOptions,
    ) -> list[Tensor]:
        """Outputs of branches of one unit, padded to the longest; ``prompt`` is its keys and values [P, K, D]."""
        n, lengths = len(queries), [len(q) for q in queries]
        query_GHMD = _stack(queries).transpose(1, 2)
        prompts = [x[None].expand(n, *x.shape) for x in prompt]
        key_GKTD, value_GKTD = (torch.cat([p, _stack(own)], dim=1).transpose(1, 2) for p, own in zip(prompts, (keys, values)))
        first, longest = len(prompt[0]), max(lengths)
        mask = self._mask((first, longest, first + longest), _window(options, first + longest), query_GHMD.device)
        out_GMHD = attention(query_GHMD, key_GKTD, value_GKTD, mask, options).transpose(1, 2)
        flat = out_GMHD.flatten(0, 1)
        if min(lengths) < longest:
            flat = flat.index_select(0, self._real(tuple(lengths), flat.device))
        return list(flat.split(lengths))

    def _real(self, lengths: tuple[int, ...], device: torch.device) -> Tensor:
        """Indices of what is not padding in rows of these lengths, padded to the longest and joined."""
        found = self._indices.get((lengths, device))
        if found is None:
            longest = max(lengths)
            found = torch.cat([torch.arange(i * longest, i * longest + n, device=device) for i, n in enumerate(lengths)])
            self._indices[(lengths, device)] = found
        return found

    def _mask(self, key: _MaskKey, window: int | None, device: torch.device, spans: Spans = ()) -> Tensor:
        """Which keys each query sees, bool [queries, keys]; the same for all layers, so it is kept. With ``spans`` the first query is the
        first key."""
        found = self._masks.get((key, window, spans, device))
        if found is None:
            first, queries, keys = key
            query_pos = torch.arange(first, first + queries, device=device)[:, None]
            key_pos = torch.arange(keys, device=device)[None]
            found = key_pos <= query_pos
            if window is not None:
                found &= query_pos - key_pos < window
            for start, end in spans:
                found[start:end, start:end] = True
            self._masks[(key, window, spans, device)] = found
        return found


def attention(query: Tensor, key: Tensor, value: Tensor, mask_LT: Tensor | None, options: AttentionOptions) -> Tensor:
    """softmax(scale q k^T + mask) v with soft cap and sinks: [B, H, L, D] from [B, H, L, D] and twice [B, K, T, D], K dividing H.

    ``mask_LT`` (bool, True = sees; broadcast over B and H) or None for causal with L = T, which plain attention only may ask for. On a CPU
    it is computed in float32 under autocast too, which is faster there than in bfloat16.
    """
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return attention(query.float(), key.float(), value.float(), mask_LT, options).to(value.dtype)
    grouped = query.shape[1] != key.shape[1]
    if _is_simple(options):
        causal = mask_LT is None
        return F.scaled_dot_product_attention(query, key, value, mask_LT, is_causal=causal, scale=options.scaling, enable_gqa=grouped)
    assert mask_LT is not None
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = torch.matmul(query, key.transpose(2, 3)).float() * options.scaling
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    scores = scores.masked_fill(~mask_LT, float("-inf"))
    if options.sinks_H is not None:
        sinks = options.sinks_H.float().view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        probs = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
    else:
        probs = scores.softmax(-1)
    return torch.matmul(probs.to(value.dtype), value)


def _is_simple(options: AttentionOptions) -> bool:
    return options.softcap is None and options.sinks_H is None


def _window(options: AttentionOptions, length: int) -> int | None:
    """The sliding window where it matters for this many positions."""
    return options.sliding_window if options.sliding_window is not None and options.sliding_window < length else None


def _stack(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows)) if len({len(r) for r in rows}) == 1 else pad_sequence(list(rows), batch_first=True)
