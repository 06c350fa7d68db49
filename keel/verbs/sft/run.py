"""`keel sft`: imitate demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keel.loops.offline import OfflineTrainer
from keel.methods.objectives.supervised import SupervisedObjective
from keel.selftest import check_training, largest
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.policy import fit, learner_of, probe_of
from keel.verbs.shared.session import load, open_session, record
from keel.verbs.shared.units import datasets, plain_units, prepare
from keel.watch.config import EarlyStopConfig


def run_sft(recipe: SFTRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train on demonstrations; leaves ``final/`` and returns the summary."""
    splits = datasets(recipe)
    with open_session("sft", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, lora=recipe.lora)
        record(session, loaded, renderer)
        units, account = prepare(splits, path, renderer, plain_units(renderer))
        objective = SupervisedObjective()
        learner = learner_of(recipe, loaded, len(units.train), objective)
        longest = largest(units.train, recipe.loop.batch_size)
        check_training(learner, objective, units.train, session.bus, recipe.settings.skip_self_test, longest)
        probe = probe_of(session, recipe, loaded, renderer, splits)
        trainer = OfflineTrainer(learner, objective, units, recipe.loop, recipe.seed, probe)
        result = fit(session, recipe, loaded, learner, trainer, EarlyStopConfig(metric="eval/loss"))
        return session.finish({"units": len(units.train), "held_out": len(units.held_out), "data": account.summary()}, result)
