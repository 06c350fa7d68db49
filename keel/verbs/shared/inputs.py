"""What a recipe reads beside its data: models, reward functions, rule files, text. A run that goes on must find them as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from keel.core.errors import ConfigError, DataError
from keel.data.sources import package_file
from keel.judges.ask import digest
from keel.judges.config import deciding_of
from keel.rewards.table import RewardConfig
from keel.runs.fingerprints import file_fingerprint, model_fingerprint
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


def inputs_of(recipe: ModelRecipe, began: Mapping[str, str] | None = None) -> dict[str, str]:
    """Fingerprints of the files and model folders that ``recipe`` names, by key path and name. What is no file here (a model of the Hub, a
    tiny one) or cannot be read has none: whoever loads it says what is wrong. ``began``: those that a run began with, which may have been
    taken in another way by an earlier version; where the file has that one too, it is given."""
    found: dict[str, str] = {}
    for key, name, is_model in recipe.files():
        try:
            path = package_file(name) if name.startswith("package:") else Path(name).expanduser()
            if path.is_file() or (is_model and path.is_dir()):
                place = f"{key} ({name})"
                known = (model_fingerprint(path),) if is_model else _fingerprints(key, path)
                before = (began or {}).get(place)
                found[place] = before if before is not None and before in known else known[0]
        except (OSError, DataError):
            continue
    return found


def _fingerprints(key: str, path: Path) -> tuple[str, ...]:
    """Today's, then those of earlier versions. Of a file of judges what decides what they say: a budget that is raised, or a server's key,
    changes no run. It was all settings with their defaults before, and at first the whole file."""
    if key.rpartition(".")[2] == "judges":
        try:
            return digest(deciding_of(path))[:16], digest(deciding_of(path, whole=True))[:16], file_fingerprint(path)
        except ConfigError:
            pass  # told of when it is used
    return (file_fingerprint(path),)


def reward_files(key: str, rewards: Sequence[RewardConfig]) -> Iterator[NamedFile]:
    """What the rewards of a recipe name, under the key of their list."""
    for i, reward in enumerate(rewards):
        for file in reward.files():
            yield NamedFile(f"{key}.{i}.{file.key}", file.path, is_model=file.is_model)
