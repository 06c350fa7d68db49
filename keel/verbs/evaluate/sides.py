"""The sides of an evaluation: each model loaded, asked, measured; what all of them can be asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.core.errors import DataError
from keel.data.config import DataConfig
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.evaluate.compare import GOLD, REWARD_MODEL
from keel.evaluate.measures import retention
from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.model import ModelReward
from keel.types import Group, Prompt, Sampler
from keel.verbs.evaluate.answering import Side, answer, drawn_in_full, sequence_kl, text_units
from keel.verbs.evaluate.ensemble import Ensemble
from keel.verbs.evaluate.parts import Parts
from keel.verbs.evaluate.recipe import EvalRecipe, OtherModel
from keel.verbs.evaluate.results import Compared
from keel.verbs.evaluate.scoring import language_of, side_answers
from keel.verbs.evaluate.shots import shot_curve
from keel.verbs.evaluate.talks import conversations
from keel.verbs.shared.account import Account
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.session import load

log = logging.getLogger("keel")


def side_of(
    recipe: EvalRecipe, spec: str, prompts: Sequence[Prompt], parts: Parts, account: Account, name: str
) -> tuple[Side, Renderer, dict[str, Any]]:
    """A side's answers, its renderer, and what its ensemble is made of ({} for a model alone)."""
    config = recipe.evaluate
    loaded, renderer = load(recipe, spec=spec)
    if recipe.ensemble is None:  # whose members' weights may be averaged, in float32
        loaded.model.freeze()
    sampler, ensemble = _ensemble(recipe, loaded.model, renderer, account) if name == "model" else (None, {})
    if recipe.environment is not None:
        groups = conversations(loaded.model, renderer, prompts, recipe, recipe.environment, account, name)
    else:
        encoded = encode(prompts, renderer, account, name, config.max_tokens)
        groups = answer(loaded.model, renderer, encoded, recipe, sampler, recipe.grounded_decoding is not None and name == "model")
    inference = LocalInference(loaded.model, BatchConfig(), config.temperature or 1.0)
    measured = parts.measure(loaded, renderer, account, name)
    whole = not ensemble or ensemble["of"] == "weights"
    if not whole:
        log.warning("KL and retention need the log-probabilities of one model: of an ensemble of %s they are left out", ensemble["of"])
    if not config.retention_text or not whole:
        return Side(inference, groups, None, 0, measured, whole), renderer, ensemble
    text = text_units(renderer, config)
    plain = LocalInference(loaded.model, BatchConfig())
    total = sum(float(b.sum()) for row in plain.logprobs(text) for b in row)
    return Side(inference, groups, total, sum(len(b) for u in text for b in u.branches), measured), renderer, ensemble


def validation_of(recipe: EvalRecipe, evaluated: Dataset) -> Dataset | None:
    """The prompts that an ensemble's weight is fitted on; none of those that are evaluated."""
    if recipe.ensemble is None or not recipe.ensemble.fit:
        return None
    return load_data(DataConfig(path=list(recipe.ensemble.fit)), recipe.evaluate.seed).without_prompts(evaluated)


def _ensemble(recipe: EvalRecipe, model: Model, renderer: Renderer, account: Account) -> tuple[Sampler | None, dict[str, Any]]:
    """The sampler of the recipe's ensemble and what it is; (None, {}) without one."""
    config = recipe.ensemble
    if config is None:
        return None, {}
    ensemble = Ensemble.of(recipe, model, renderer)
    weights, more = ensemble.settled(), dict[str, Any]()
    if config.fit:
        prompts = account.sides["validation"].prompts()
        encoded = encode(prompts, renderer, account, "validation", recipe.evaluate.max_tokens)
        rewards = rewards_of(recipe.rewards, recipe, model, renderer)
        weights, more = ensemble.fitted(lambda sampler: answer(model, renderer, encoded, recipe, sampler), rewards)
    members = [{"model": m, "weight": w} for m, w in zip((recipe.model, *config.models), weights, strict=True)]
    return ensemble.sampler(weights), {"of": config.of, "members": members, **more}


def answered_by_all(before: Side, after: Side, others: Sequence[Compared]) -> tuple[Side, Side, list[Compared]]:
    """All sides without the prompts that the limits or template of one of them refused."""
    kept = {g.prompt.prompt_id for g in before.groups} & {g.prompt.prompt_id for g in after.groups}
    for other in others:
        kept &= {g.prompt.prompt_id for g in other.groups}
    if not kept:
        raise DataError("no prompt is left that all models can be asked", "refused.jsonl says why each one was refused")

    def only(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(g for g in groups if g.prompt.prompt_id in kept)

    first, second = (replace(side, groups=only(side.groups)) for side in (before, after))
    return first, second, [replace(other, groups=only(other.groups)) for other in others]


def other_of(
    recipe: EvalRecipe,
    other: OtherModel,
    before: Side,
    renderer_before: Renderer,
    prompts: Sequence[Prompt],
    parts: Parts,
    account: Account,
) -> Compared:
    """One more model: its answers and what they cost; it is let go of before the next one is loaded."""
    alone = recipe.model_copy(update={"ensemble": None, "grounded_decoding": None})
    side, renderer, _ = side_of(alone, other.model, prompts, parts, account, f"others.{other.name}")
    price: dict[str, Any] = {}
    if renderer_before.tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
        compare_texts_only(recipe)
    else:
        asked = {g.prompt.prompt_id for g in before.groups}
        shared = replace(side, groups=tuple(g for g in side.groups if g.prompt.prompt_id in asked))
        if recipe.evaluate.kl_prompts and shared.groups and recipe.environment is None:
            price["kl"] = sequence_kl(shared, before, drawn_in_full(alone, shared, renderer))
        if before.retained is not None and side.retained is not None:
            price["retention"] = retention(before.retained, side.retained, side.retained_tokens).to_json()
    given = rewards_of(recipe.rewards, recipe, side.inference.model, renderer) if recipe.evaluate.shots else []
    curve = shots_of(alone, side.inference.model, renderer, given, other.name, account)
    return Compared(other.name, side.groups, price, other.at, (), curve, side.measured)


def shots_of(
    recipe: EvalRecipe, model: Model, renderer: Renderer, rewards: Sequence[Reward], name: str, account: Account
) -> Mapping[str, Any]:
    """Scores with more and more examples before the prompts; {} where none are asked for."""
    config = recipe.evaluate
    if not config.shots:
        return {}
    prompts = load_data(DataConfig(path=list(config.prompts), limit=config.limit), config.seed).prompts()
    prompts = [p for p in prompts if not config.languages or language_of(p) in config.languages]
    names = [*([GOLD] if config.gold else []), *(r.source.name for r in rewards)]
    names = [REWARD_MODEL if any(isinstance(c, ModelReward) and c.name == n for c in recipe.rewards) else n for n in names]
    return shot_curve(
        config,
        prompts,
        lambda shown: answer(model, renderer, encode(shown, renderer, account, f"{name} with examples", config.max_tokens), recipe),
        lambda groups: side_answers(recipe, groups, rewards),
        names,
        recipe.render.as_chat is not False,
    )


def compare_texts_only(recipe: EvalRecipe) -> None:
    """Two tokenizers: what goes by token ids is left out, and a reward model, which reads ids, is refused."""
    if any(isinstance(reward, ModelReward) for reward in recipe.rewards):
        raise DataError(
            "the two models have different tokenizers: a reward model would read the ids of one of them as other words",
            "leave out the rewards of type model; texts are still compared by rules and functions",
        )
    log.warning("the two models have different tokenizers: KL and retention compare token ids and are left out")
