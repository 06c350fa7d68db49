"""The sampler that a recipe asks for."""

from __future__ import annotations

from keel.models.loading import Loaded
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig
from keel.rollout.local import Decode, LocalSampler
from keel.rollout.prove import nats
from keel.rollout.vllm_engine import start
from keel.rollout.vllm_sampler import VllmSampler
from keel.types import Sampler


def make_sampler(loaded: Loaded, decode: Decode, config: RolloutConfig, longest: int) -> Sampler:
    """``longest``: tokens of the longest prompt and its longest answer; ``decode`` turns ids [T] into text without special tokens."""
    if config.engine == "local":
        return LocalSampler(loaded.model, decode, config)
    engine, names = start(loaded, config, longest)
    model = loaded.model
    vocabulary, tolerance = model.head_weight_VH.shape[0], nats(model.precision)
    return VllmSampler(ModelWeights(model), vocabulary, tolerance, engine, names, decode)
