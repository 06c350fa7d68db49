"""What may be wrong with a model's files, in plain words: transformers, tokenizers, safetensors and the Hub each raise what they like.
And their progress bars and reports, switched off where Keel says itself what matters."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging as hf

from keel.core.errors import ModelError

log = logging.getLogger("keel")
_RAISED = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)
_OTHER_PURPOSE = ("score.", "classifier.", "rotary_emb.inv_freq", "mtp.", "v_head.")  # heads of other kinds, tables that are computed


def check_folder(path: Path) -> None:
    """Raise ModelError for a folder that holds no model, or one without a tokenizer."""
    if not (path / "config.json").exists():
        if (path / "adapter_config.json").exists():
            raise ModelError(f"'{path}' holds an adapter, not a whole model", "give the merged model's folder (a run's final/ is one)")
        raise ModelError(f"model folder '{path}' has no config.json", "give a folder written by save_pretrained")
    if not any(
        (path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    ):
        raise ModelError(
            f"model folder '{path}' has no tokenizer", "save the tokenizer into the same folder: tokenizer.save_pretrained(folder)"
        )


@contextmanager
def plain_errors(spec: str, path: Path | None) -> Iterator[None]:
    """Turn what transformers raises into one clear ModelError. ``path`` is what is read here; None: the Hub is asked."""
    try:
        yield
    except ModelError:
        raise
    except _RAISED as error:
        text = str(error).strip() or type(error).__name__
        if path is None:
            _refuse_hub(spec, text.lower(), error)
        broken = _broken_file(path) if path is not None and path.is_dir() else ""
        hint = "the files may be cut off or mixed up: fetch or save them again"
        if isinstance(error, ImportError):
            hint = "install the package that is named"
        raise ModelError(f"model '{spec}' cannot be read: {broken or _one_line(text)}", hint) from error


def _refuse_hub(spec: str, text: str, error: Exception) -> None:
    """What the Hub answers when it is not there, or will not give a model away."""
    away = ("couldn't connect", "offline", "connection", "resolve host", "name resolution", "max retries", "local entry")
    if any(words in text for words in away):
        raise ModelError(
            f"model '{spec}' is not on this machine and the Hugging Face Hub cannot be reached",
            "connect to the internet once, or give a folder or a .gguf file",
        ) from error
    if "gated" in text or "401" in text or "is not a local folder" in text or "404" in text:
        raise ModelError(
            f"model '{spec}' is neither a folder here nor a model on the Hugging Face Hub that you can read",
            "check the spelling; for a gated model, log in with `hf auth login`",
        ) from error


def _one_line(text: str) -> str:
    """The first line, and the second where the first only announces it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _broken_file(folder: Path) -> str:
    """The first file of a model that cannot even be opened, and why; empty when all can."""
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            return f"{file.name} is no JSON: {error}"
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                continue
        except (OSError, SafetensorError) as error:
            return f"{file.name}: {error}"
    return ""


def refuse_mismatched(spec: str, mismatched: Collection[tuple[str, torch.Size, torch.Size]]) -> None:
    """Raise ModelError when a weight has another shape than its config says."""
    for name, found, wanted in sorted(mismatched):
        raise ModelError(
            f"'{spec}': config.json does not fit the weights: {name} is {tuple(found)} in the files, {tuple(wanted)} by the config"
            f" ({len(mismatched)} such weights)",
            "give the config.json that the weights were saved with",
        )


def tell_unused(spec: str, unexpected: Collection[str]) -> None:
    """Warn of weights that the model has no place for: a config with fewer layers than the files is another model."""
    unused = sorted(name for name in unexpected if not any(part in name for part in _OTHER_PURPOSE))
    if unused:
        log.warning("'%s': %d weights of the files are not used: %s ...", spec, len(unused), ", ".join(unused[:3]))


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, no reports and no deprecations of transformers' own code inside; as before afterwards."""
    bars, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()
    own_bar = getattr(gguf, "tqdm")  # noqa: B009 # the reader of GGUF files has a bar that does not ask
    setattr(gguf, "tqdm", hf.tqdm)  # noqa: B010 (a typed module has no such attribute to set)
    hf.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        setattr(gguf, "tqdm", own_bar)  # noqa: B010
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
