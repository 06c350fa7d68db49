"""Prompts of evaluation sets that must not be trained on."""

from __future__ import annotations

from keel.data.cleaning.config import DecontaminateConfig
from keel.data.config import DataConfig
from keel.data.dataset import load
from keel.types import Prompt


def evaluation_prompts(config: DecontaminateConfig) -> tuple[Prompt, ...]:
    """The prompts of all evaluation sets that the settings name."""
    return tuple(p for path in config.path for p in load(DataConfig(path=path)).prompts())
