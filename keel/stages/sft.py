"""`keel sft`: imitate demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keel.learner.local import LocalLearner
from keel.loops.offline import OfflineTrainer, total_steps
from keel.objectives.supervised import SupervisedObjective
from keel.selftest import check_training, largest
from keel.stages.probes import SampleProbe
from keel.stages.recipes import SFTRecipe
from keel.stages.session import load, open_session, record, save_final, train
from keel.stages.units import datasets, plain_units, prepare
from keel.watch.config import EarlyStopConfig


def run_sft(recipe: SFTRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train on demonstrations; leaves ``final/`` and returns the summary."""
    splits = datasets(recipe)
    with open_session("sft", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, lora=recipe.lora)
        record(session, loaded, renderer)
        units, account = prepare(splits, path, plain_units(renderer))
        steps = total_steps(recipe.loop, len(units.train))
        learner = LocalLearner(loaded.model, recipe.optim, recipe.batch, steps, recipe.seed)
        objective = SupervisedObjective()
        longest = largest(units.train, recipe.loop.batch_size)
        check_training(learner, objective, units.train, session.bus, recipe.settings.skip_self_test, longest)
        probe = SampleProbe(loaded.model, renderer, splits.held_out or splits.train, recipe.loop.probes, session.run)
        trainer = OfflineTrainer(learner, objective, units, recipe.loop, recipe.seed, probe)
        result = train(session, trainer, recipe, EarlyStopConfig())
        if not result.interrupted:
            save_final(session, loaded)
        return session.finish({"units": len(units.train), "held_out": len(units.held_out), "data": account.summary()}, result)
