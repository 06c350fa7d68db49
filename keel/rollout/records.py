"""Rollouts as named tensors and plain values: how they wait in a checkpoint and travel between processes. No pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keel.types import Rollout
from keel.types.support import Support

_TENSORS = ("tokens_T", "sampled_T", "logprobs_T", "version_T")
_PLAIN = ("prompt_id", "attempt", "sample", "finish_reason", "text", "error", "biased")
_SUPPORT = ("words_W", "starts_T")


def packed(rollouts: Sequence[Rollout]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors by name, those of all rollouts joined, and what is plain of each rollout, in order. ``unpacked`` gives equal rollouts. Raises
    ValueError for a conversation's, which has more."""
    if any(r.turn_T is not None or r.forks or r.conversation is not None for r in rollouts):
        raise ValueError("rollouts of conversations cannot be packed")
    tensors = {name: torch.cat([getattr(r, name) for r in rollouts]) for name in _TENSORS} if rollouts else {}
    cut = [r.support for r in rollouts if r.support is not None]
    if cut:
        tensors |= {name: torch.cat([getattr(s, name) for s in cut]) for name in _SUPPORT}
    plain: list[dict[str, Any]] = []
    for r in rollouts:
        row = {name: getattr(r, name) for name in _PLAIN} | {"length": len(r)}
        if r.support is not None:
            row |= {"words": len(r.support.words_W), "vocab": r.support.vocab}
        plain.append(row)
    return tensors, plain


def unpacked(tensors: Mapping[str, Tensor], plain: Sequence[Mapping[str, Any]]) -> tuple[Rollout, ...]:
    """The rollouts of ``packed``. Raises ValueError where the two do not belong together."""
    rows = sum(int(row["length"]) for row in plain)
    short = [name for name in _TENSORS if plain and (name not in tensors or len(tensors[name]) != rows)]
    if short:
        raise ValueError(f"rollouts of {rows} tokens, but {short[0]} has {len(tensors[short[0]]) if short[0] in tensors else 'none'}")
    found: list[Rollout] = []
    t = word = start = 0
    for row in plain:
        length, support = int(row["length"]), None
        if "words" in row:
            support = Support(
                tensors["words_W"][word : word + row["words"]].clone(),
                tensors["starts_T"][start : start + length + 1].clone(),
                row["vocab"],
            )
            word, start = word + row["words"], start + length + 1
        parts: dict[str, Any] = {name: tensors[name][t : t + length].clone() for name in _TENSORS}
        found.append(Rollout(**{name: row[name] for name in _PLAIN}, **parts, support=support))
        t += length
    return tuple(found)
