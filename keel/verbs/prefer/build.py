"""The parts of direct preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keel.core.errors import ConfigError
from keel.learner.inference import LocalInference
from keel.loops.offline import Sides
from keel.methods.preference import preference_objective
from keel.types import PairTarget, Unit
from keel.verbs.prefer.answers import answer_units, referred
from keel.verbs.prefer.online import OnlineParts, build_online
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.augment import shown, with_reference
from keel.verbs.shared.continual import remember
from keel.verbs.shared.learners import compare_whole
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.owned import each_alone
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.probes import probe_of
from keel.verbs.shared.reference import reference_of
from keel.verbs.shared.reference_cache import cache_of
from keel.verbs.shared.session import Session, load, record
from keel.verbs.shared.units import Splits, preference_units, prepare


def build(session: Session, recipe: PreferRecipe, splits: Splits) -> OfflineParts | OnlineParts:
    """Those of pairs that the data hold, or that are made while training."""
    return build_online(session, recipe, recipe.online, splits) if recipe.online is not None else build_offline(session, recipe, splits)


def build_offline(session: Session, recipe: PreferRecipe, splits: Splits) -> OfflineParts:
    """The reference is the starting weights, or a model that the recipe names; losses that know none take no log-probabilities of it.
    Token-level DPO compares whole distributions."""
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    objective = preference_objective(recipe.objective)
    account = Account(session.run.path, recipe.settings.max_refused, **splits.sides)
    render = answer_units(renderer) if objective.takes_answers else preference_units(renderer, objective.needs_contrast)
    units = prepare(account, renderer, render if recipe.personal is None else each_alone(render))
    contrasted = sum(unit.contrast is not None for unit in units.train)
    if objective.needs_contrast and not contrasted:
        raise ConfigError(
            f"the loss '{recipe.objective.name}' compares a prompt's images with corrupted ones, and no prompt holds an image",
            "give prompts with images, or set objective.name=dpo",
        )
    parts = OfflineParts.of(loaded, objective, units, recipe.training)
    learner = parts.learner
    other, digest = other_model(session, recipe, ("reference_model", recipe.reference_model), renderer, loaded.model.media)
    if other is not None and "ref_kl" in objective.needs:
        compare_whole(learner, other)
    looked = shown(recipe.augment, renderer, recipe.seed, units.train)
    if looked is not None and objective.needs_reference:
        looked = with_reference(looked, reference_of(learner, None, other).logprobs)
    cache = cache_of(session, recipe.reference_cache, LocalInference(other, recipe.batch) if other is not None else learner, digest)
    units = Sides(*(referred(objective, side, recipe.seed, cache.logprobs) for side in (units.train, units.held_out, units.test)))
    memory = remember(recipe, learner, renderer, splits, account)
    return replace(
        parts,
        units=units,
        told=memory.told,
        probe=probe_of(session.run, recipe.loop.probes, loaded, renderer, splits),
        starts_at_reference=objective.needs_reference and other is None,
        shown=looked,
        learnt=True,
        twins=renderer.twins,
        summary={
            **_size(units.train),
            "units": len(units.train),
            **({"contrasts": contrasted} if objective.needs_contrast else {}),
            "data": account.summary(),
        },
    )


def _size(units: Sequence[Unit]) -> dict[str, int]:
    pairs = sum(len(u.target.edges) for u in units if isinstance(u.target, PairTarget))
    return {"pairs": pairs} if pairs else {"answers": sum(len(u.branches) for u in units)}
