"""Proof of the fast paths on the loaded model, against its own attention and its own logits.

A fast path is *silently* wrong where an architecture does more than plain attention, so nothing is assumed: ragged sequences, longer than
any window, go through both. Verdicts are kept by a hash of config, weights, machine, versions and code, in memory and in the user's cache
folder. The weights belong to it: what an architecture does beyond plain attention may be switched off by parameters that are zero in one
model (biases, sinks, scales) and not in another of the same config, and rounding in bf16 grows with them. Those that a model was loaded
with count: a verdict holds for the run that trains them.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from keel.core.errors import ModelError
from keel.core.hashing import digest_bytes
from keel.kernels import attention, logit_transform, logprobs, positions, tiles
from keel.kernels.attention import PackedPlan
from keel.kernels.logprobs import Head, token_logprobs
from keel.kernels.positions import packed_positions
from keel.runs.durable import write_atomic
from keel.runs.environment import machine
from keel.types import Encoded, Layout

if TYPE_CHECKING:
    from keel.models.model import Model

log = logging.getLogger("keel")
WINDOW = 8  # windows are narrowed to this for the proof, so that short sequences go beyond them
PROMPTS, BRANCHES = (13, 5), ((11, 4, 2), (17, 9))  # two ragged units
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # what is wrong is wrong by 0.1 and more
_memory: dict[str, float | None] = {}

Check = Callable[["Model"], float]


def packed_path(model: Model) -> bool:
    """Whether packed rows with shared prompts give this model's own hidden states."""
    return verdict(model, "packed rows with shared prompts", packed_error)


def logits_or_raise(model: Model) -> None:
    """Prove that head and ``LogitTransform``, and the tiles made of them, give the model's own logits. Nothing can stand in for them, so
    a failure is a ModelError."""
    error = _cached(model, "logits", logits_error)
    if error is None or error > tolerance(model):
        raise ModelError(
            f"'{model.text_config.model_type}' does more to its logits than scale, soft cap and bias (difference {_percent(error)})",
            "this architecture is not supported yet",
        )


def verdict(model: Model, name: str, check: Check, code: Sequence[ModuleType] = ()) -> bool:
    """Whether ``check``, the relative error of a fast path on this model, is within tolerance; raising means no. A hook for other rooms:
    the sampler proves its decoding here. ``code`` are the modules under test: when they change, so may the verdict. A failure is logged."""
    error = _cached(model, name, check, code)
    ok = error is not None and error <= tolerance(model)
    if not ok:
        log.warning("%s: not exact for '%s' (difference %s); the plain path is used", name, model.text_config.model_type, _percent(error))
    return ok


def tolerance(model: Model) -> float:
    """The relative error up to which two paths are the same, in the model's compute precision."""
    return _TOLERANCE[model.compute_dtype]


def measured(model: Model, name: str, check: Check, code: Sequence[ModuleType] = ()) -> float | None:
    """What ``check`` measures on this model and machine, remembered as verdicts are; None when it raises."""
    return _cached(model, name, check, code)


def packed_error(model: Model) -> float:
    """Relative difference of hidden states: packed against each sequence by itself with the model's own attention."""
    prompts, branches = _sequences(model)
    groups = [Layout(n, lengths) for n, lengths in zip(PROMPTS, BRANCHES, strict=True)]
    positions_1N = packed_positions([(Encoded(p), [len(b) for b in parts]) for p, parts in zip(prompts, branches, strict=True)])
    row_N = torch.cat([part for prompt, parts in zip(prompts, branches, strict=True) for part in (prompt, *parts)])
    with torch.no_grad(), narrow_windows(model):
        packed_NH = model.run(row_N[None], positions_1N, PackedPlan(groups))[0].float()
        got, expected, at = [], [], 0
        for prompt, parts in zip(prompts, branches, strict=True):
            prompt_hidden, at = packed_NH[at : at + len(prompt)], at + len(prompt)
            for part in parts:
                tokens = torch.cat([prompt, part])[None]
                expected.append(model.run_plain(tokens, torch.ones_like(tokens))[0].float())
                got.append(torch.cat([prompt_hidden, packed_NH[at : at + len(part)]]))
                at += len(part)
    return relative_error(torch.cat(got), torch.cat(expected))


def logits_error(model: Model) -> float:
    """Relative difference of logits, and of log-probabilities in tiles, from those of the module itself."""
    prompt = _sequences(model)[0][0]
    banned = list(model.transform.banned)
    with torch.no_grad(), model.own_attention() as module, model.compute():
        own_LV = module(input_ids=prompt[None].to(model.device), use_cache=False).logits[0].float()
        hidden_LH = model.run_plain(prompt[None], torch.ones_like(prompt)[None])[0]
        mine_LV = model.logits(hidden_LH)
        target_L = prompt.roll(1).to(model.device)  # not the tokens themselves: tied weights may be sure of those, log p near 0
        logprobs_L, _ = token_logprobs(hidden_LH, Head(model.head_weight_VH, model.head_bias_V, model.transform), target_L)
    own_logprobs_LV = own_LV.index_fill(1, torch.tensor(banned, dtype=torch.long, device=own_LV.device), float("-inf")).log_softmax(-1)
    in_tiles = relative_error(logprobs_L, own_logprobs_LV.gather(1, target_L[:, None])[:, 0])
    kept = torch.ones(own_LV.shape[1], dtype=torch.bool, device=own_LV.device)
    kept[banned] = False
    return max(in_tiles, relative_error(mine_LV[:, kept], own_LV[:, kept]))


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of ``expected``."""
    return ((got - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def beyond_rounding(model: Model, got_NH: Tensor, expected_NH: Tensor, again: Callable[[], Tensor]) -> float:
    """Relative error of ``got_NH``; beyond the tolerance it is held against the model's own rounding.

    Some inputs are chaotic: where a state is huge before it is small again, bf16 rounds it by more than itself. ``again`` computes
    ``expected_NH`` once more, here with every layer's input rounded anew. Where the error is at most three times what that changes, what
    counts is the median over rows: rounding hits a few of them, a wrong mask or position nearly all.
    """
    error = relative_error(got_NH, expected_NH)
    if error <= tolerance(model):
        return error
    with shaken(model):
        rounding = relative_error(again(), expected_NH)
    rows_N = (got_NH - expected_NH).norm(dim=-1) / expected_NH.norm(dim=-1).clamp_min(1e-30)
    log.info("a chaotic prompt: error %.2g, the model's own rounding %.2g, median over rows %.2g", error, rounding, rows_N.median())
    return error if error > 3 * rounding else min(error, rows_N.median().item())


@contextmanager
def shaken(model: Model) -> Iterator[None]:
    """Within this context each decoder layer's input is off by a random rounding of the compute precision."""
    generator = torch.Generator().manual_seed(2)
    epsilon = torch.finfo(model.compute_dtype).eps / 2

    def off(state: Tensor) -> Tensor:
        noise = torch.rand(state.shape, generator=generator).to(state.device) * 2 - 1
        return (state * (1 + epsilon * noise)).to(state.dtype) if state.dtype == torch.float32 else _next_to(state, noise)

    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (off(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": off(kwargs["hidden_states"])}

    layers = model.module.get_decoder().layers
    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]  # pyright: ignore[reportGeneralTypeIssues]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _next_to(state: Tensor, noise: Tensor) -> Tensor:
    """Each number of a 16-bit ``state``, or one of its neighbours: a quarter of them up, a quarter down."""
    return (state.float() * (1 + torch.finfo(state.dtype).eps * noise.sign() * (noise.abs() > 0.5))).to(state.dtype)


@contextmanager
def narrow_windows(model: Model) -> Iterator[None]:
    """Attention windows and chunks cut to ``WINDOW``, in the config and in the layers, so that short sequences see their edges."""
    changed: list[tuple[object, str, int]] = []
    for owner in (model.text_config, *model.module.get_decoder().modules()):
        for name in ("sliding_window", "attention_chunk_size"):
            size = getattr(owner, name, None)
            if isinstance(size, int) and size > WINDOW:
                changed.append((owner, name, size))
                setattr(owner, name, WINDOW)
    try:
        yield
    finally:
        for owner, name, size in changed:
            setattr(owner, name, size)


def _sequences(model: Model) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Fixed random tokens of the two units: prompts and branches. Tokens that stand for images are left out."""
    vocab = model.head_weight_VH.shape[0]
    allowed = torch.tensor([t for t in range(min(vocab, 2000)) if t not in model.transform.banned])
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return allowed[torch.randint(len(allowed), (n,), generator=generator)]

    return [draw(n) for n in PROMPTS], [[draw(n) for n in lengths] for lengths in BRANCHES]


def _percent(error: float | None) -> str:
    return "unknown: it failed" if error is None else f"{100 * error:.2g}%"


# ------------------------------------------------------------------------------------------------------------------------- cache


def _cached(model: Model, name: str, check: Check, code: Sequence[ModuleType] = ()) -> float | None:
    key = _key(model, name, check, code)
    if key not in _memory:
        stored = _read_file()
        if key in stored:
            _memory[key] = stored[key]
        else:
            _memory[key] = _measure(model, name, check)
            _write_file(key, _memory[key])
    return _memory[key]


def _measure(model: Model, name: str, check: Check) -> float | None:
    try:
        return check(model)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        log.info("%s: the check failed on '%s': %s", name, model.text_config.model_type, error)
        return None


def _key(model: Model, name: str, check: Check, code: Sequence[ModuleType]) -> str:
    files = {inspect.getsourcefile(check), *(m.__file__ for m in (attention, positions, logit_transform, logprobs, tiles, *code))}
    hashes = [digest_bytes(Path(f).read_bytes()) for f in sorted(f for f in files if f)]
    where = [machine(), model.device.type, str(model.compute_dtype), torch.__version__, transformers.__version__]
    return digest_bytes(
        json.dumps(
            [type(model.module).__name__, model.config.to_json_string(use_diff=False), _weights(model), name, where, hashes]
            + ([model.processor_key] if model.processor_key else [])
        ).encode()
    )


def _weights(model: Model) -> str:
    """sha256 of a few values of every parameter as they were when this was first asked, adapters left out: cheap, and two
    checkpoints differ in it."""
    if not model.loaded_weights:
        flat = [p.detach().reshape(-1) for name, p in model.module.named_parameters() if ".lora_" not in name]
        values = torch.cat([values[:: max(1, len(values) // 16)][:16].float() for values in flat])
        model.loaded_weights = digest_bytes(values.cpu().numpy().tobytes())
    return model.loaded_weights


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keel" / "proofs.json"


def _read_file() -> dict[str, float | None]:
    try:
        stored = json.loads(_file().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _write_file(key: str, error: float | None) -> None:
    """Remember the verdict for other processes. A folder that cannot be written costs only the time of the next proof."""
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**_read_file(), key: error}).encode(), sync=False)
    except (OSError, RuntimeError):
        log.debug("the verdict of a proof could not be written to the cache folder")
