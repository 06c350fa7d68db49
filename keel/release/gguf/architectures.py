"""Which architectures a GGUF file can be written of: their name there, their numbers, and what is done to their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import ModelError

Change = Callable[[str, Tensor, Any], Tensor]


@dataclass(frozen=True, slots=True)
class Architecture:
    """``name``: in GGUF. ``change``: of a weight by its name in transformers, where llama.cpp keeps it in another order."""

    name: str
    change: Change


def _as_it_is(name: str, weight: Tensor, config: Any) -> Tensor:
    return weight


def _interleaved(name: str, weight: Tensor, config: Any) -> Tensor:
    """Rotary positions of llama in GGUF turn neighbours, those of transformers the two halves of a head: the rows of queries and keys
    change places."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2], 0)
    if not heads:
        return weight
    return weight.view(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


_TABLE: Mapping[str, Architecture] = {
    "llama": Architecture("llama", _interleaved),
    "mistral": Architecture("llama", _interleaved),
    "qwen2": Architecture("qwen2", _as_it_is),
    "qwen3": Architecture("qwen3", _as_it_is),
}

_QWEN3_HEAD = 128


def architecture_of(config: Any) -> Architecture:
    """Raises ModelError for one that is not in the table, or that does what a GGUF file of it would not say."""
    found = _TABLE.get(config.model_type)
    if found is None:
        raise _refused(f"'{config.model_type}' is not among {', '.join(_TABLE)}")
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default":
        raise _refused(f"its positions are scaled ({rope['rope_type']})")
    if config.model_type == "mistral" and config.sliding_window and config.sliding_window < config.max_position_embeddings:
        raise _refused(f"it attends within a window of {config.sliding_window} tokens, which GGUF's 'llama' does not know")
    if config.model_type == "qwen2" and config.use_sliding_window:
        raise _refused("it attends within a sliding window")
    if config.model_type == "llama" and (config.attention_bias or config.mlp_bias):
        raise _refused("its linear layers have biases")
    if config.model_type == "qwen3" and config.head_dim != _QWEN3_HEAD:
        raise _refused(f"its heads have {config.head_dim} numbers, and transformers reads {_QWEN3_HEAD} in every GGUF file of qwen3")
    return found


def numbers(config: Any) -> dict[str, float]:
    """What a GGUF file says of the architecture, by the writer's method (``add_...``)."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(getattr(config, "rope_parameters", None) or {})
    return {
        "context_length": int(config.max_position_embeddings),
        "embedding_length": int(config.hidden_size),
        "block_count": int(config.num_hidden_layers),
        "feed_forward_length": int(config.intermediate_size),
        "head_count": int(config.num_attention_heads),
        "head_count_kv": int(config.num_key_value_heads),
        "key_length": int(head),
        "value_length": int(head),
        "rope_dimension_count": int(head),
        "rope_freq_base": float(rope.get("rope_theta", 10000.0)),
        "layer_norm_rms_eps": float(config.rms_norm_eps),
        "vocab_size": int(config.vocab_size),
    }


def changed(found: Architecture, name: str, weight: Tensor, config: Any) -> Tensor:
    """A weight as GGUF keeps it: float32, in its order."""
    return found.change(name, weight.to(torch.float32), config).contiguous()


def _refused(why: str) -> ModelError:
    return ModelError(
        f"no GGUF file can be written of this model: {why}", "export it with --to merged, and convert that folder with llama.cpp's script"
    )
