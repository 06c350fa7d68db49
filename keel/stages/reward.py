"""`keel reward`: a scalar reward model from preferences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from keel.evaluate.measures import fit_temperature, pair_accuracy, pair_calibration
from keel.learner.local import LocalLearner
from keel.loops.offline import OfflineTrainer, total_steps
from keel.objectives.reward import BradleyTerryObjective
from keel.selftest import check_reward_reads, check_training, largest
from keel.stages.recipes import RewardRecipe
from keel.stages.rewards import write_scale
from keel.stages.session import load, open_session, record, save_final, train
from keel.stages.units import datasets, preference_units, prepare
from keel.types import PairTarget, Unit
from keel.watch.config import EarlyStopConfig

MAX_SCALE_UNITS = 64  # prompts whose scores give the mean and deviation that the reward is standardised with


def run_reward(recipe: RewardRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train a reward model; leaves ``final/`` (a sequence classifier with one label) and its held-out measures in the summary."""
    splits = datasets(recipe)
    with open_session("reward", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, heads=frozenset({"score"}), lora=recipe.lora)
        record(session, loaded, renderer)
        units, account = prepare(splits, path, preference_units(renderer))
        learner = LocalLearner(loaded.model, recipe.optim, recipe.batch, total_steps(recipe.loop, len(units.train)), recipe.seed)
        objective = BradleyTerryObjective(recipe.centring, recipe.margin)
        longest = largest(units.train, recipe.loop.batch_size)
        check_training(learner, objective, units.train, session.bus, recipe.settings.skip_self_test, longest)
        check_reward_reads(learner.scores, units.train, session.bus, recipe.settings.skip_self_test)
        trainer = OfflineTrainer(learner, objective, units, recipe.loop, recipe.seed)
        result = train(session, trainer, recipe, EarlyStopConfig(metric="eval/accuracy", mode="max"))
        if result.interrupted:
            return session.finish({}, result)
        save_final(session, loaded)
        constants = scale(learner, units.train)
        write_scale(path / "final", constants)
        summary: dict[str, Any] = {"pairs": sum(len(_edges(u)) for u in units.train), "scale": constants, "data": account.summary()}
        return session.finish(summary | held_out_measures(learner, units.held_out) | _test_measures(learner, units.test), result)


def scale(learner: LocalLearner, units: Sequence[Unit]) -> dict[str, float]:
    """Mean and standard deviation of the scores of the first training answers: the constants that a reward is standardised with."""
    scores = [float(s) for row in learner.scores(units[:MAX_SCALE_UNITS]) for s in row]
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)
    return {"mean": mean, "std": math.sqrt(variance) or 1.0}


def held_out_measures(learner: LocalLearner, units: Sequence[Unit]) -> dict[str, Any]:
    """Accuracy with its interval (clustered by prompt), calibration and the temperature that would mend it."""
    if not units:
        return {}
    scores = learner.scores(units)
    edges = [(u, row, e) for u, row in zip(units, scores, strict=True) for e in _edges(u)]
    margins = [_margin(row, e.winner, e.loser) for _, row, e in edges]
    labels = [e.label for _, _, e in edges]
    accuracy = pair_accuracy(margins, labels, [u.unit_id for u, _, _ in edges])
    calibration = pair_calibration(margins, labels)
    model = {**accuracy.to_json(), "accuracy": accuracy.mean, "ece": calibration.ece, "temperature": fit_temperature(margins, labels)}
    return {"reward_model": model, "calibration": calibration.to_json()}


def _test_measures(learner: LocalLearner, units: Sequence[Unit]) -> dict[str, Any]:
    return {f"test_{name}": value for name, value in held_out_measures(learner, units).items()}


def _edges(unit: Unit) -> tuple[Any, ...]:
    assert isinstance(unit.target, PairTarget)
    return unit.target.edges


def _margin(scores_G: Tensor, winner: int, loser: int) -> float:
    return float(scores_G[winner] - scores_G[loser])
