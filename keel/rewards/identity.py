"""Which reward is it, exactly? A hash of everything that decides its scores, so that scores kept on disk are never those of another."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from functools import cache
from importlib import resources
from pathlib import Path

from keel import __version__
from keel.core.config import dump
from keel.rewards.compare_config import CompareConfig
from keel.rewards.config import CodeReward, GymReward, JsonSchemaReward, MathReward, ModelReward, PythonReward, RewardConfig, RulesReward
from keel.runs.fingerprints import model_fingerprint

_NOT_OF_THE_SCORE = ("name", "weight", "on_failure", "retries", "worker")
_LIBRARIES = {
    MathReward: ("math-verify", "latex2sympy2_extended", "sympy"),
    JsonSchemaReward: ("jsonschema",),
    GymReward: ("reasoning-gym",),
}


def identity(config: RewardConfig | CompareConfig) -> str:
    """``version:hash`` of a source: this program's version; its settings, the files that it reads, the libraries that it uses and the code
    of this room. Name, weight and what happens to failures play no part."""
    settings = {k: v for k, v in dump(config).items() if k not in _NOT_OF_THE_SCORE}
    libraries = {name: _version(name) for kind, names in _LIBRARIES.items() if isinstance(config, kind) for name in names}
    parts = [json.dumps(settings, sort_keys=True), json.dumps(libraries, sort_keys=True), _content(config), _own_code()]
    if isinstance(config, CodeReward):
        parts.append(_version_of_python())
    return f"{__version__}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"


def _content(config: RewardConfig | CompareConfig) -> str:
    """The content of the file or model folder that the settings name."""
    match config:
        case ModelReward():
            paths = [Path(p) for p in (config.path, *config.ensemble.members)]
            return " ".join(model_fingerprint(path) if path.exists() else "" for path in paths)
        case PythonReward() | CompareConfig():
            return _digest(Path(config.function.rpartition(":")[0]))
        case RulesReward() | JsonSchemaReward():
            return _digest(Path(config.path)) if config.path else ""
        case _:
            return ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version_of_python() -> str:
    import platform

    return platform.python_version()


@cache
def _own_code() -> str:
    """Of the rooms whose code decides what a verifier says."""
    whole = hashlib.sha256()
    for package, names in (("keel.rewards", None), ("keel.sandbox", None), ("keel.data", ("text.py",))):
        for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(".py") and (names is None or file.name in names):
                whole.update(file.name.encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()
