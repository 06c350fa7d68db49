"""Reward models that learn from others, and after others: a teacher's preferences as labels, earlier data replayed, what was forgotten."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from keel.core.errors import ModelError
from keel.core.hashing import stable_hash
from keel.data.dataset import load as load_data
from keel.evaluate.reward_measures import log_loss
from keel.learner.inference import LocalInference
from keel.models.loading import load_model
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.types import PairTarget, Unit
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.scored_labels import judge
from keel.verbs.shared.units import Earlier, Splits, datasets

log = logging.getLogger("keel")


def datasets_with_earlier(recipe: RewardRecipe) -> Splits:
    """The data by side, a share of the earlier records beside the new ones. No prompt that is measured, of the earlier or of the new data,
    is trained on."""
    splits, config, seed = datasets(recipe), recipe.earlier, recipe.seed
    if config is None:
        return splits
    rest, held = load_data(config.data, seed).split_by_prompt(config.held_out, seed, "earlier")
    for other in (splits.held_out, splits.test):
        rest = rest.without_prompts(other) if other is not None else rest
    train = splits.train.without_prompts(held)
    n = min(len(rest), round(config.replay * len(train)))
    order = sorted(range(len(rest)), key=lambda i: stable_hash("replay", seed, i))
    records = tuple(rest.records[i] for i in sorted(order[:n]))
    log.info("%d earlier records are replayed beside %d new ones; %d are measured before and after", n, len(train), len(held))
    return replace(splits, train=replace(train, records=train.records + records), earlier=(Earlier("earlier", rest, held, n),))


def remembered(inference: LocalInference, renderer: Renderer, earlier: Sequence[Earlier], dimensions: Sequence[str]) -> dict[str, float]:
    """Accuracy and loss on earlier labels; {} where there are none that prefer anything."""
    units = [unit for one in earlier for unit in reward_units(renderer, one.held, dimensions)[0]]
    pairs = [(m, y) for j in judge(inference, units) for m, y in j.pairs if y != 0.5]
    if not pairs:
        return {}
    right = sum(1.0 if (m > 0) == (y > 0.5) and m != 0 else 0.5 if m == 0 else 0.0 for m, y in pairs)
    return {"accuracy": right / len(pairs), "loss": log_loss(pairs), "pairs": float(len(pairs))}


def forgotten(before: Mapping[str, float], after: Mapping[str, float], replayed: int) -> dict[str, Any]:
    """What a refresh lost: accuracy before less accuracy after. {} where nothing was measured."""
    if not before or not after:
        return {}
    return {
        "forgetting": {"before": dict(before), "after": dict(after), "lost": before["accuracy"] - after["accuracy"], "replayed": replayed}
    }


def taught(units: Sequence[Unit], recipe: RewardRecipe, model: Model, tokenizer: Any) -> tuple[Unit, ...]:
    """Units whose pairs' labels are the teachers' preferences, as far as ``teacher.share`` says: the mean over teachers of
    ``sigma(lead / temperature)``. Other labels stay. Raises ModelError for a teacher with another tokenizer."""
    config = recipe.teacher
    if config is None:
        return tuple(units)
    pairs = [u for u in units if isinstance(u.target, PairTarget)]
    chances: list[list[torch.Tensor]] = [[] for _ in pairs]
    for path in config.paths:
        other = other_judge(path, "teacher.paths", recipe, model, tokenizer)
        for found, scores_G in zip(chances, other.scores(pairs), strict=True):
            found.append(torch.sigmoid((scores_G[:, None] - scores_G[None, :]) / config.temperature))
    labelled = {id(u): _labelled(u, torch.stack(found).mean(0), config.share) for u, found in zip(pairs, chances, strict=True)}
    return tuple(labelled.get(id(u), u) for u in units)


def other_judge(path: str, setting: str, recipe: RewardRecipe, model: Model, tokenizer: Any) -> LocalInference:
    """Another reward model, at the same units. Raises ModelError when it has another tokenizer than the model in training."""
    loaded = load_model(path, recipe.model_options, heads=frozenset({"score"}))
    if loaded.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ModelError(f"{setting}: {path} has another tokenizer than {recipe.model}: ids would mean other words")
    loaded.model.use_media(model.media)
    return LocalInference(loaded.model, recipe.batch)


def _labelled(unit: Unit, chance_GG: torch.Tensor, share: float) -> Unit:
    assert isinstance(unit.target, PairTarget)
    edges = tuple(
        replace(e, label=(1 - share) * e.label + share * float(chance_GG[e.winner, e.loser]), tie=(1 - share) * e.tie)
        for e in unit.target.edges
    )
    return replace(unit, target=PairTarget(edges))
