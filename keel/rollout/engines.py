"""The sampler that a recipe asks for."""

from __future__ import annotations

import inspect
import tempfile
import weakref
from pathlib import Path

from keel.core.errors import UserError
from keel.core.python_file import load_object, names_a_file
from keel.models.loading import Loaded
from keel.models.weights import ModelWeights
from keel.rollout.config import RolloutConfig
from keel.rollout.local import LocalSampler
from keel.rollout.prove import nats
from keel.rollout.server.client import EngineClient
from keel.rollout.server.protocol import RolloutEngine
from keel.rollout.server.sampler import ServerSampler
from keel.rollout.server.sglang_http import SglangClient
from keel.rollout.server.spawn import Spawned
from keel.rollout.server.vllm_http import VllmClient
from keel.rollout.vllm_engine import check_model, start
from keel.rollout.vllm_sampler import VllmSampler
from keel.rollout.wave import Decode
from keel.types import Sampler


def make_sampler(loaded: Loaded, decode: Decode, config: RolloutConfig, longest: int, in_flight: bool = False) -> Sampler:
    """``longest``: tokens of the longest prompt and its longest answer; ``decode`` turns ids [T] into text without special tokens;
    ``in_flight``: engines take new weights while they draw.

    Raises:
        UserError: a sampler of the user's own that cannot be made, or is none.
    """
    if config.engine == "vllm":
        engine, names = start(loaded, config, longest)
        model = loaded.model
        vocabulary, tolerance = model.head_weight_VH.shape[0], nats(model.precision)
        return VllmSampler(ModelWeights(model), vocabulary, tolerance, engine, names, decode)
    if config.engine == "server":
        return server_sampler(loaded, decode, config, in_flight)
    local = LocalSampler(loaded.model, decode, config)
    return own_sampler(config.engine, local, loaded.tokenizer) if names_a_file(config.engine) else local


def server_sampler(loaded: Loaded, decode: Decode, config: RolloutConfig, in_flight: bool = False) -> ServerSampler:
    """The sampler over the engines of ``config``, which are started here unless they run already. They are given the model as it is now."""
    of, model = config.server, loaded.model
    if config.foreign:
        check_model(model, config.foreign)
    spawned = None if of.urls else Spawned(of.spawn)
    holder = None if of.folder else tempfile.TemporaryDirectory(prefix="keel-weights-")
    folder = Path(of.folder or holder.name if holder else of.folder)
    model.save(folder, loaded.tokenizer, loaded.processor)
    settings = {
        "threads": of.threads,
        "model_options": {"precision": "bf16" if model.precision == "bfloat16" else "fp32", "device": "auto"},
        "banned": list(model.transform.banned),
        "stop_tokens": list(model.stop_tokens),
        "sampler": {"max_rows": config.max_rows, "prefill_tokens": config.prefill_tokens, "path": config.path},
    }
    engines = [_engine(url, config, decode) for url in (of.urls or (spawned.urls if spawned else ()))]
    vocabulary, tolerance = model.head_weight_VH.shape[0], nats(model.precision)
    revive = spawned.revive if spawned is not None else _nothing
    sampler = ServerSampler(engines, folder, settings, ModelWeights(model), vocabulary, tolerance, of.patience_s, revive, in_flight)
    for end in (spawned.stop if spawned else _nothing, holder.cleanup if holder else _nothing):
        weakref.finalize(sampler, end)  # with the sampler, or with the process
    return sampler


def _engine(url: str, config: RolloutConfig, decode: Decode) -> RolloutEngine:
    if config.server.kind == "vllm":
        return VllmClient(url, config.server.timeout_s, config.max_rows, decode)
    if config.server.kind == "sglang":
        return SglangClient(url, config.server.timeout_s, config.max_rows, decode)
    return EngineClient(url, config.server.timeout_s)


def _nothing() -> None:
    pass


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
