"""`keel prefer`: direct preference optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keel.learner.local import LocalLearner
from keel.loops.offline import OfflineTrainer, total_steps
from keel.loops.online import with_signal
from keel.preference_algorithms import preference_objective
from keel.selftest import check_reference, check_training
from keel.stages.probes import SampleProbe
from keel.stages.recipes import PreferRecipe
from keel.stages.session import load, open_session, record, save_final, train
from keel.stages.units import datasets, fingerprints, preference_units, prepare
from keel.watch.config import EarlyStopConfig


def run_prefer(recipe: PreferRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train on pairs; leaves ``final/`` and returns the summary.

    The reference is the starting weights: its log-probabilities are taken once, before the first step (and again before a resume, which
    gives the same numbers), so no second model is held.
    """
    data, held_out = datasets(recipe.data, recipe.held_out, recipe.seed)
    with open_session("prefer", recipe, path, fingerprints(data, held_out), parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, lora=recipe.lora)
        record(session, loaded, renderer)
        units = prepare(data, held_out, renderer, path, preference_units(renderer))
        learner = LocalLearner(loaded.model, recipe.optim, recipe.batch, total_steps(recipe.loop, len(units.train)), recipe.seed)
        objective = preference_objective(recipe.objective)
        training = with_signal(units.train, "ref_logprobs", learner.logprobs(units.train))
        held = with_signal(units.held_out, "ref_logprobs", learner.logprobs(units.held_out)) if units.held_out else ()
        check_training(learner, objective, training, session.bus, recipe.settings.skip_self_test)
        check_reference(learner, training, session.bus, recipe.settings.skip_self_test)
        probe = SampleProbe(loaded.model, renderer, held_out or data, recipe.loop.probes, session.run)
        trainer = OfflineTrainer(learner, objective, training, held, recipe.loop, recipe.seed, probe)
        result = train(session, trainer, recipe, EarlyStopConfig(metric="eval/loss"))
        if not result.interrupted:
            save_final(session, loaded)
        return session.finish({"pairs": sum(len(u.branches) for u in units.train), "units": len(units.train)}, result)
