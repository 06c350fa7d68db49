"""An adapter in a folder of its own that knows its base: read, it is the base with the adapter merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import peft
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from keel.core.errors import ModelError
from keel.models import lora, tiny
from keel.models.read_errors import quiet
from keel.runs.durable import write_atomic
from keel.runs.fingerprints import model_fingerprint

FILE = "keel_adapter.json"  # beside what PEFT writes
SCHEMA = 1


def standing_name(spec: str, seed: int) -> str:
    """``spec`` as it can be read from anywhere: a folder by its whole path, a tiny model with its seed."""
    if spec.startswith(tiny.PREFIX):
        return spec if "seed=" in spec else f"{spec}{'&' if '?' in spec else '?'}seed={seed}"
    path = Path(spec).expanduser()
    return str(path.resolve()) if path.exists() else spec


def tell_base(folder: Path, base: str, owner: str) -> None:
    """Write what the adapter in ``folder`` stands on; ``base`` as ``standing_name`` gives it."""
    told = {"schema": SCHEMA, "owner": owner, "base": base, "base_fingerprint": _fingerprint(base)}
    write_atomic(folder / FILE, (json.dumps(told, ensure_ascii=False) + "\n").encode())


def base_of(folder: Path) -> str | None:
    """The base of the adapter in ``folder``; None where no such file says it. Raises ModelError when the base is another one by now."""
    try:
        told = json.loads((folder / FILE).read_bytes())
        base, known = str(told["base"]), str(told["base_fingerprint"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / FILE} cannot be read: {error}", "train the adapter again") from None
    if known != _fingerprint(base):
        raise ModelError(f"'{folder}' is an adapter of {base}, which is not there or not the same any more", "put the base back")
    return base


def with_adapter(module: PreTrainedModel, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base ``module`` (float32) with the adapter in ``folder`` merged, as a run's ``final/`` would have it. Raises ModelError for files
    that do not fit."""
    try:
        with quiet():
            wrapped: Any = peft.PeftModel.from_pretrained(cast(Any, module), str(folder), adapter_name=lora.ADAPTER)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be read: {str(error).splitlines()[0]}", "train it again") from None
    merged = lora.merged_state(module, dtype)
    plain: PreTrainedModel = wrapped.unload()
    plain.load_state_dict(merged)
    return plain


def _fingerprint(base: str) -> str:
    """Of a base that is a folder or a file; empty for one that is not here."""
    path = Path(base).expanduser()
    return model_fingerprint(path) if path.exists() else ""
