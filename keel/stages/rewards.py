"""The rewards of a recipe, ready to score: reward models loaded, their scale frozen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from keel.errors import ModelError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.loading import load_model
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.build import build_rewards
from keel.rewards.compose import Reward
from keel.rewards.config import ModelReward, RewardConfig
from keel.rewards.model import ModelSource, Scorer, Standardiser, fit_standardiser
from keel.stages.recipes import ModelRecipe

SCALE_FILE = "keel_reward.json"  # beside the reward model's weights: mean and std of the scores it was made with

Fit = Callable[[Scorer], Sequence[Tensor]]


def write_scale(folder: Path, scale: dict[str, float]) -> None:
    """Keep the reward's scale with the reward model."""
    (folder / SCALE_FILE).write_text(json.dumps({"schema": 1, **scale}), encoding="utf-8")


def rewards_of(
    configs: Sequence[RewardConfig], recipe: ModelRecipe, policy: Model, renderer: Renderer, fit: Fit | None = None
) -> tuple[Reward, ...]:
    """The named rewards with their weights. A reward model's scale is the recipe's, else the one stored with it, else ``fit``'s (scores of
    the starting policy's answers), else none at all."""

    def load_reward_model(config: ModelReward) -> ModelSource:
        loaded = load_model(config.path, recipe.model_options, heads=frozenset({"score"}), seed=recipe.seed)
        _same_tokens(loaded.tokenizer, renderer.tokenizer, config)
        loaded.model.media = policy.media  # the images are read once
        inference = LocalInference(loaded.model, BatchConfig())
        return ModelSource(config.name, inference.scores, renderer.end_of_answer, _standardiser(config, inference.scores, fit))

    return build_rewards(configs, load_reward_model)


def _standardiser(config: ModelReward, scorer: Scorer, fit: Fit | None) -> Standardiser:
    if not config.standardise:
        return Standardiser()
    stored = _stored_scale(config.path)
    mean = config.mean if config.mean is not None else stored.get("mean")
    std = config.std if config.std is not None else stored.get("std")
    if mean is not None and std is not None:
        return Standardiser(mean, std)
    return fit_standardiser(fit(scorer), mean, std) if fit is not None else Standardiser(mean or 0.0, std or 1.0)


def _stored_scale(path: str) -> dict[str, Any]:
    file = Path(path) / SCALE_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _same_tokens(theirs: Any, ours: Any, config: ModelReward) -> None:
    """Sampled ids are scored as they are, so both models must mean the same by them."""
    if theirs.get_vocab() != ours.get_vocab():
        raise ModelError(
            f"reward model {config.path} (reward '{config.name}') has another tokenizer than the policy: ids would mean other words",
            "use a reward model trained from the same model family",
        )
