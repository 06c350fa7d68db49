"""How a model was loaded: what another process needs to load the very same."""

from __future__ import annotations

from dataclasses import dataclass

from keel.models.config import LoraConfig, ModelOptions
from keel.models.heads import HeadName, HeadSpec, ValueKind


@dataclass(frozen=True, slots=True)
class Origin:
    """The arguments of ``load_model``. Everything new that it makes (adapters, heads, a tiny model) comes from ``seed``."""

    spec: str
    options: ModelOptions
    lora: LoraConfig | None = None
    heads: frozenset[HeadName] = frozenset()
    seed: int = 0
    new_heads: bool = False
    score: HeadSpec | None = None
    value: ValueKind | None = None
