"""The sampler that a recipe asks for."""

from __future__ import annotations

from keel.models.loading import Loaded
from keel.rollout.config import RolloutConfig
from keel.rollout.local import LocalSampler
from keel.rollout.vllm_engine import start
from keel.rollout.vllm_sampler import VllmSampler
from keel.rollout.wave import Decode
from keel.types import Sampler


def make_sampler(loaded: Loaded, decode: Decode, config: RolloutConfig, longest: int) -> Sampler:
    """``longest``: tokens of the longest prompt and its longest answer; ``decode`` turns ids [T] into text without special tokens."""
    if config.engine == "local":
        return LocalSampler(loaded.model, decode, config)
    engine, names = start(loaded, config, longest)
    return VllmSampler(loaded.model, engine, names, decode)
