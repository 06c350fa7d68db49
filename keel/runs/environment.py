"""What a run's numbers depend on beside its recipe: code, packages, processor, threads. Recorded in the manifest, compared on resume."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.core.version import VERSION

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "datasets", "gguf", "bitsandbytes", "pydantic")
_X86_FLAGS = {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}
_FLAGS = _X86_FLAGS | {"asimd", "bf16", "i8mm", "sve", "sve2"}


def environment() -> dict[str, Any]:
    """Python, platform, processor, threads, packages and settings of torch that decide the last bit of a number."""
    import torch  # here, as those who only read runs start without it

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **machine(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "packages": {"keel": VERSION} | {name: version for name in PACKAGES if (version := _version(name))},
    }


def machine() -> dict[str, Any]:
    """What computes: the processor with the instructions that torch takes on it, and the accelerator ("cpu" without one)."""
    import torch

    return {
        "processor": {"model": _processor(), "flags": _flags(), "torch": torch.backends.cpu.get_cpu_capability()},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, and whether it was changed since; None when it does not come from a git checkout."""
    folder = Path(__file__).parents[1]
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:  # installed beside some other repository
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "diff", "HEAD", "--", ".")
    if commit is None or changes is None:
        return None
    state: dict[str, Any] = {"commit": commit.strip(), "dirty": bool(changes)}
    return state | ({"diff_sha256": hashlib.sha256(changes.encode()).hexdigest()} if changes else {})


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, in words: "torch 2.13.0 -> 2.14.0"."""
    old, new = flatten(before), flatten(now)
    keys = [k for k in new if k in old and new[k] != old[k]] + [k for k in new if k not in old] + [k for k in old if k not in new]
    return [f"{k.removeprefix('packages.')} {old.get(k, 'absent')} -> {new.get(k, 'absent')}" for k in keys]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of key paths; empty ones stay as values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list | tuple) and value:
            value = {str(i): v for i, v in enumerate(value)}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _version(package: str) -> str | None:
    from importlib import metadata  # slow to load, and those who only read runs do not ask

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(errors="replace").split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _processor() -> str:
    info = _cpuinfo()
    return info.get("model name") or info.get("CPU part") or platform.processor() or platform.machine()


def _flags() -> str:
    info = _cpuinfo()
    return " ".join(sorted(_FLAGS & set((info.get("flags") or info.get("Features") or "").split())))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
