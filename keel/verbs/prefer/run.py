"""`keel prefer`: direct preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.learner.inference import LocalInference
from keel.loops.offline import OfflineTrainer, Sides
from keel.methods.preference import preference_objective
from keel.selftest import check_reference, check_training, largest
from keel.types import PairTarget, Unit
from keel.verbs.prefer.answers import answer_units, referred
from keel.verbs.prefer.online import run_online
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.policy import fit, learner_of, probe_of, reference_of
from keel.verbs.shared.session import load, open_session, record
from keel.verbs.shared.units import datasets, preference_units, prepare
from keel.watch.config import EarlyStopConfig


def run_prefer(recipe: PreferRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train on pairs; leaves ``final/`` and returns the summary.

    The reference is the starting weights, or a model that the recipe names; losses that know none take no log-probabilities of it.
    Token-level DPO compares whole distributions.
    """
    if recipe.online is not None:
        return run_online(recipe, recipe.online, path, parent)
    splits = datasets(recipe)
    with open_session("prefer", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, lora=recipe.lora)
        record(session, loaded, renderer)
        objective = preference_objective(recipe.objective)
        render = answer_units(renderer) if objective.takes_answers else preference_units(renderer)
        units, account = prepare(splits, path, renderer, render)
        learner = learner_of(recipe, loaded, len(units.train), objective)
        other, digest = other_model(session, recipe, ("reference_model", recipe.reference_model), renderer, loaded.model.media)
        if other is not None and "ref_kl" in objective.needs:
            learner.reference = other
        cache = reference_of(session, recipe.reference_cache, LocalInference(other, recipe.batch) if other is not None else learner, digest)
        units = Sides(*(referred(objective, side, recipe.seed, cache.logprobs) for side in (units.train, units.held_out, units.test)))
        longest = largest(units.train, recipe.loop.batch_size)
        check_training(learner, objective, units.train, session.bus, recipe.settings.skip_self_test, longest)
        if objective.needs_reference and other is None:
            check_reference(learner, units.train, session.bus, recipe.settings.skip_self_test)
        probe = probe_of(session, recipe, loaded, renderer, splits)
        trainer = OfflineTrainer(learner, objective, units, recipe.loop, recipe.seed, probe)
        result = fit(session, recipe, loaded, learner, trainer, EarlyStopConfig(metric="eval/loss"))
        return session.finish({**_size(units.train), "units": len(units.train), "data": account.summary()}, result)


def _size(units: Sequence[Unit]) -> dict[str, int]:
    pairs = sum(len(u.target.edges) for u in units if isinstance(u.target, PairTarget))
    return {"pairs": pairs} if pairs else {"answers": sum(len(u.branches) for u in units)}
