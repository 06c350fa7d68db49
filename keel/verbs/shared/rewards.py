"""The rewards of a recipe, ready to score: reward models loaded, their scale frozen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import ConfigError, ModelError
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.ensemble import read_manifest
from keel.models.loading import load_model
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.build import build_rewards
from keel.rewards.composition.rewards import Reward
from keel.rewards.segments import SegmentedModel
from keel.rewards.sources.ensemble import EnsembleSource, Expert
from keel.rewards.sources.model import ModelReward, ModelSource, Scorer, Standardiser, fit_standardiser
from keel.rewards.sources.remote import RemoteReward, RemoteSource
from keel.rewards.table import RewardConfig
from keel.verbs.shared.recipes import ModelRecipe

SCALE_FILE = "keel_reward.json"  # beside the reward model's weights: mean and std of the scores it was made with, and its heads' means

Fit = Callable[[Scorer], Sequence[Tensor]]


def write_scale(folder: Path, scale: Mapping[str, Any]) -> None:
    """Keep the reward's scale with the reward model."""
    (folder / SCALE_FILE).write_text(json.dumps({"schema": 1, **scale}), encoding="utf-8")


def rewards_of(
    configs: Sequence[RewardConfig], recipe: ModelRecipe, policy: Model, renderer: Renderer, fit: Fit | None = None, *, asks: bool = False
) -> tuple[Reward, ...]:
    """The named rewards with their weights. A reward model's scale is the recipe's, else the one stored with it, else ``fit``'s (scores of
    the starting policy's answers), else none at all. ``asks``: does the caller ask people where ``ensemble.ask`` wants it?"""

    def load_one(path: str, config: ModelReward) -> LocalInference:
        options = recipe.model_options.model_copy(update={"quantise": config.quantise, "train": ()})
        loaded = load_model(path, options, heads=frozenset({"score"}), seed=recipe.seed)
        same_tokens(loaded.tokenizer, renderer.tokenizer, path, config)
        loaded.model.use_media(policy.media)  # the images are read once
        return LocalInference(loaded.model.freeze(), BatchConfig())

    def load_reward_model(config: ModelReward | RemoteReward) -> ModelSource | EnsembleSource | SegmentedModel | RemoteSource:
        if isinstance(config, RemoteReward):
            return RemoteSource(config, lambda tokens_T: renderer.tokenizer.decode(tokens_T, skip_special_tokens=False))
        return model_source(config, lambda path: load_one(path, config), renderer, fit, asks=asks)

    return build_rewards(configs, load_reward_model, renderer.decode)


def model_source(
    config: ModelReward, load_one: Callable[[str], LocalInference], renderer: Renderer, fit: Fit | None = None, *, asks: bool = False
) -> ModelSource | EnsembleSource | SegmentedModel:
    """The source of one reward model, or of an ensemble: of one with several heads, of several models, of both.

    Raises ConfigError for settings of an ensemble where there is only one member, for one whose answers' parts are to be scored, and for
    ``ensemble.ask`` where nobody asks.
    """
    if config.ensemble.ask is not None and not asks:
        raise ConfigError(f"reward '{config.name}': ensemble.ask would have no effect here, only training asks people", "leave it out")
    paths = [config.path, *config.ensemble.members]
    models = [load_one(path) for path in paths]
    scales = [standardiser_of(config, path, model.scores, fit) for path, model in zip(paths, models, strict=True)]
    each = [(part, model, scale) for model, scale in zip(models, scales, strict=True) for part in model.model.members or (model.model,)]
    heads = [len(part.score_head.members) if part.score_head is not None else 0 for part, _, _ in each]
    if config.segments is not None:
        if sum(heads) > 1:
            raise ConfigError(
                f"reward '{config.name}': segments are scored by one model with one head", "leave the ensemble or segments out"
            )
        return SegmentedModel(config.name, models[0].steps, renderer.closed, config.segments, renderer.decode, scales[0])
    if sum(heads) > 1:
        weights = _weights(config, paths, models) if config.ensemble.aggregate == "weighted" else [1.0 * n for n in heads]
        offsets = [o for path, model in zip(paths, models, strict=True) for o in head_offsets(path, model, fit)]
        experts = [
            Expert(LocalInference(part, model.batch).judgements, Standardiser(scale.mean + part.offset, scale.std), weight, own)
            for (part, model, scale), weight, own in zip(each, weights, offsets, strict=True)
        ]
        return EnsembleSource(config.name, experts, renderer.closed, config.ensemble)
    if config.ensemble.changed:
        raise ConfigError(
            f"reward '{config.name}': ensemble settings would have no effect, {config.path} is one model with one head",
            "train one with head.members or ensemble.members, or name further models in ensemble.members",
        )
    return ModelSource(config.name, models[0].scores, renderer.closed, scales[0])


def _weights(config: ModelReward, paths: Sequence[str], models: Sequence[LocalInference]) -> list[float]:
    """The weights of all models, members of ensembles each for itself: the settings', else the softmax of their held-out accuracies."""
    n = sum(max(1, len(model.model.members)) for model in models)
    if config.ensemble.weights:
        if len(config.ensemble.weights) != n:
            raise ConfigError(f"reward '{config.name}': ensemble.weights has {len(config.ensemble.weights)} numbers for {n} models")
        return list(config.ensemble.weights)
    found: list[float | None] = []
    for path, model in zip(paths, models, strict=True):
        manifest = read_manifest(Path(path)) if model.model.members else None
        found += [m.accuracy for m in manifest.members] if manifest is not None else [_stored_scale(path).get("accuracy")]
    known = [a for a in found if a is not None]
    if len(known) < n:
        raise ConfigError(
            f"reward '{config.name}': no held-out accuracy is stored with {n - len(known)} of {n} models, so none can be weighed by it",
            "give ensemble.weights",
        )
    return torch.softmax(torch.tensor(known, dtype=torch.float64) / config.ensemble.sharpness, 0).tolist()


def standardiser_of(config: ModelReward, path: str, scorer: Scorer, fit: Fit | None) -> Standardiser:
    """The scale of a reward model's scores: the settings', else that stored beside its weights, else what ``fit`` measures, else none."""
    if not config.standardise:
        return Standardiser()
    stored = _stored_scale(path)
    mean = config.mean if config.mean is not None else stored.get("mean")
    std = config.std if config.std is not None else stored.get("std")
    if mean is not None and std is not None:
        return Standardiser(mean, std)
    return fit_standardiser(fit(scorer), mean, std) if fit is not None else Standardiser(mean or 0.0, std or 1.0)


def head_offsets(path: str, model: LocalInference, fit: Fit | None) -> list[tuple[float, ...]]:
    """By model of an ensemble: how much more each of its heads says on average than all heads together, from the means stored beside its
    weights, else from what ``fit`` measures; empty where nothing is known, with one head, and for ratings, whose zero is their own."""
    parts = model.model.members or (model.model,)
    specs = [part.score_head.spec for part in parts if part.score_head is not None]
    counts = [spec.members for spec in specs]
    if len(specs) < len(parts) or sum(counts) == len(parts) or not specs[0].open_zero:
        return [()] * len(parts)
    means = [float(m) for m in _stored_scale(path).get("members", [])]
    if len(means) != sum(counts) and fit is not None:
        scores_NM = torch.cat(list(fit(lambda units: [scores_GM for scores_GM, _ in model.judgements(units)]))).double()
        means = scores_NM[scores_NM.isfinite().all(1)].mean(0).tolist()
    if len(means) != sum(counts):
        return [()] * len(parts)
    middle = sum(means) / len(means)
    ends = list(itertools.accumulate(counts))
    return [tuple(m - middle for m in means[end - n : end]) for end, n in zip(ends, counts, strict=True)]


def _stored_scale(path: str) -> dict[str, Any]:
    file = Path(path) / SCALE_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def same_tokens(theirs: Any, ours: Any, path: str, config: ModelReward) -> None:
    """Sampled ids are scored as they are, so both models must mean the same by them."""
    if theirs.get_vocab() != ours.get_vocab():
        raise ModelError(
            f"reward model {path} (reward '{config.name}') has another tokenizer than the policy: ids would mean other words",
            "use a reward model trained from the same model family",
        )
