"""The sampler that a recipe asks for."""

from __future__ import annotations

import inspect

from keel.core.errors import UserError
from keel.core.python_file import load_object, names_a_file
from keel.models.loading import Loaded
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig
from keel.rollout.local import Decode, LocalSampler
from keel.rollout.prove import nats
from keel.rollout.vllm_engine import start
from keel.rollout.vllm_sampler import VllmSampler
from keel.types import Sampler


def make_sampler(loaded: Loaded, decode: Decode, config: RolloutConfig, longest: int) -> Sampler:
    """``longest``: tokens of the longest prompt and its longest answer; ``decode`` turns ids [T] into text without special tokens.

    Raises:
        UserError: a sampler of the user's own that cannot be made, or is none.
    """
    if config.engine == "vllm":
        engine, names = start(loaded, config, longest)
        model = loaded.model
        vocabulary, tolerance = model.head_weight_VH.shape[0], nats(model.precision)
        return VllmSampler(ModelWeights(model), vocabulary, tolerance, engine, names, decode)
    local = LocalSampler(loaded.model, decode, config)
    return own_sampler(config.engine, local, loaded.tokenizer) if names_a_file(config.engine) else local


def own_sampler(spec: str, local: Sampler, tokenizer: object) -> Sampler:
    """What ``FILE.py:NAME`` makes of the local sampler and the tokenizer: a class or a function of the two.

    Raises:
        UserError: no such file or name, other arguments, an error of its code, or a result without the methods of ``types.Sampler``.
    """
    wanted = "it must be NAME(local, tokenizer), and what it returns needs submit, collect and load (docs/add_a_sampler.md)"
    make = load_object(spec, "sampler")
    try:
        inspect.signature(make).bind(local, tokenizer)
    except TypeError as error:
        raise UserError(f"sampler {spec} cannot be called as it will be: {error}", wanted) from None
    try:
        sampler = make(local, tokenizer)
    except Exception as error:  # whatever it raises is the user's to mend
        raise UserError(f"sampler {spec} failed: {type(error).__name__}: {error}", wanted) from error
    missing = [name for name in ("submit", "collect", "load") if not callable(getattr(sampler, name, None))]
    if missing:
        raise UserError(f"sampler {spec}: {type(sampler).__name__} has no {' and no '.join(missing)}", wanted)
    return sampler
