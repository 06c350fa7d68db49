"""What a recipe reads beside its data: models, reward functions, rule files, text. A run that goes on must find them as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from keel.core.errors import DataError
from keel.data.sources import package_file
from keel.rewards.config import JsonSchemaReward, ModelReward, PythonReward, RewardConfig, RulesReward
from keel.runs.fingerprints import file_fingerprint, model_fingerprint
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.recipes import ModelRecipe


def inputs_of(recipe: ModelRecipe) -> dict[str, str]:
    """Fingerprints of the files and model folders that ``recipe`` names, by key path and name. What is no file here (a model of the Hub, a
    tiny one) or cannot be read has none: whoever loads it says what is wrong."""
    found: dict[str, str] = {}
    for key, name, is_model in _named(recipe):
        try:
            path = package_file(name) if name.startswith("package:") else Path(name).expanduser()
            if path.is_file() or (is_model and path.is_dir()):
                found[f"{key} ({name})"] = model_fingerprint(path) if is_model else file_fingerprint(path)
        except (OSError, DataError):
            continue
    return found


def _named(recipe: ModelRecipe) -> Iterator[tuple[str, str, bool]]:
    """(key path, name, is it a model) of everything that may be a file; empty names are left out."""
    yield "model", recipe.model, True
    if isinstance(recipe, EvalRecipe):
        yield "baseline", recipe.baseline, True
        if recipe.evaluate.retention_text:
            yield "evaluate.retention_text", recipe.evaluate.retention_text, False
    if isinstance(recipe, RLRecipe) and recipe.critic_model:
        yield "critic_model", recipe.critic_model, True
    if isinstance(recipe, RewardRecipe) and recipe.teacher is not None:
        for k, teacher in enumerate(recipe.teacher.paths):
            yield f"teacher.paths.{k}", teacher, True
    if isinstance(recipe, RewardRecipe) and recipe.order.curriculum is not None and recipe.order.curriculum.model:
        yield "order.curriculum.model", recipe.order.curriculum.model, True
    yield from _reward_files("rewards", recipe.rewards if isinstance(recipe, EvalRecipe | RLRecipe) else [])
    if isinstance(recipe, PreferRecipe) and recipe.online is not None:
        yield from _reward_files("online.rewards", recipe.online.rewards)


def _reward_files(key: str, rewards: Sequence[RewardConfig]) -> Iterator[tuple[str, str, bool]]:
    for i, reward in enumerate(rewards):
        if isinstance(reward, ModelReward):
            yield f"{key}.{i}.path", reward.path, True
            for k, member in enumerate(reward.ensemble.members):
                yield f"{key}.{i}.ensemble.members.{k}", member, True
        elif isinstance(reward, RulesReward | JsonSchemaReward) and reward.path:
            yield f"{key}.{i}.path", reward.path, False
        elif isinstance(reward, PythonReward):
            yield f"{key}.{i}.function", reward.function.rpartition(":")[0], False
