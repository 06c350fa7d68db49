"""One attention function, registered with transformers under the name ``keel``, for every decoder that transformers has.

What it computes is decided by the *plan* that is handed through the model's keyword arguments (``keel_plan=``): packed rows with shared
prompts for training, prefill and decode for sampling. The plan owns the cache, so the model runs with ``use_cache=False`` and no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

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
