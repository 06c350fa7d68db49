"""`keel reward`: a reward model from any kind of label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.offline import OfflineTrainer, Sides, total_steps
from keel.loops.ordering import Order
from keel.methods.objectives.reward import BOOTSTRAP, RewardObjective, bootstrap, order_of
from keel.selftest import check_reward_reads, check_training, largest
from keel.types import PairTarget, StepsTarget, Unit
from keel.verbs.reward.config import TeacherConfig
from keel.verbs.reward.labels import Labels, labels_line, read_labels, settle
from keel.verbs.reward.members import accuracy_of, check_member, held_out_measures, run_members, save_member, scale, seed_of, start_of
from keel.verbs.reward.order import judges
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.reward.refresh import forgotten, refresh, remembered, taught
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.rewards import write_scale
from keel.verbs.shared.session import load, open_session, record, save_final, train
from keel.verbs.shared.units import datasets, prepare
from keel.watch.config import EarlyStopConfig

log = logging.getLogger("keel")


def run_reward(recipe: RewardRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train a reward model; leaves ``final/`` (a sequence classifier with one label where its head is a plain one; for a member of an
    ensemble of adapters ``adapter/`` alone) and its held-out measures in the summary."""
    if recipe.ensemble is not None and recipe.ensemble.member is None:
        return run_members(recipe, path, parent, train_one)
    return train_one(recipe, path, parent)


def train_one(recipe: RewardRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Train one reward model, of an ensemble the member that the recipe names."""
    seed = seed_of(recipe)
    start = refresh(datasets(recipe), recipe.earlier, recipe.seed)
    splits = start.splits
    with open_session("reward", recipe, path, start.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        labels = read_labels(splits.train)
        spec, objective = settle(recipe.head, recipe.loss, recipe.margin, recipe.centring, _as_taught(labels, recipe.teacher))
        log.info("%s", labels_line(labels, spec, objective))
        loaded, renderer = load(start_of(recipe), heads=frozenset({"score"}), lora=recipe.lora, score=spec)
        check_member(recipe, loaded)
        record(session, loaded, renderer)
        dimensions = objective.dimensions if labels.ratings else ()
        units, account = prepare(splits, path, renderer, lambda dataset: reward_units(renderer, dataset, dimensions))
        units = replace(units, train=taught(units.train, recipe, loaded.model, loaded.tokenizer))
        if recipe.ensemble is not None and recipe.ensemble.bootstrap:
            units = replace(units, train=_drawn(units.train, seed))
        elif spec.members > 1 and recipe.head.bootstrap:
            units = replace(units, train=_bootstrapped(units.train, spec.members, seed))
        learner = LocalLearner(loaded.model, recipe.optim, recipe.batch, total_steps(recipe.loop, len(units.train)), seed)
        longest = largest(units.train, recipe.loop.batch_size)
        check_training(learner, objective, units.train, session.bus, recipe.settings.skip_self_test, longest)
        check_reward_reads(learner.scores, units.train, session.bus, recipe.settings.skip_self_test)
        before = remembered(learner, renderer, start.earlier, dimensions)
        asked = judges(units.train, recipe, loaded, learner)
        order = Order(units.train, recipe.loop, recipe.order, seed, learner.total_steps, asked)
        trainer = OfflineTrainer(learner, objective, units, recipe.loop, seed, order=order)
        result = train(session, trainer, recipe, _best(units.held_out, objective))
        if result.interrupted:
            return session.finish({}, result)
        constants, measures = scale(learner, units.train), _measures(learner, units)
        if recipe.ensemble is not None:
            save_member(session, loaded)
        else:
            save_final(session, loaded, learner, units.held_out or units.train)
        write_scale(path / ("final" if (path / "final").exists() else "adapter"), constants | accuracy_of(measures))
        summary: dict[str, Any] = {"labels": labels.summary(), "head": spec.to_json(), "loss": objective.pairs, "scale": constants}
        summary |= {"data": account.summary(), **measures}
        return session.finish(summary | forgotten(before, remembered(learner, renderer, start.earlier, dimensions), start.replayed), result)


def _drawn(units: Sequence[Unit], seed: int) -> tuple[Unit, ...]:
    """What one member sees: its draw of the prompts, those drawn several times with that weight. All of them, where the draw is empty."""
    drawn = _bootstrapped(units, 1, seed)
    return tuple(u for u in drawn if u.meta[BOOTSTRAP] != (0.0,)) or tuple(units)


def _measures(learner: LocalInference, units: Sides) -> dict[str, Any]:
    pairs = sum(len(u.target.edges) for u in units.train if isinstance(u.target, PairTarget))
    return {"pairs": pairs, **held_out_measures(learner, units)}


def _as_taught(labels: Labels, teacher: TeacherConfig | None) -> Labels:
    """Where teachers alone give the labels, ties and strengths of the data play no part."""
    return replace(labels, ties=0, margin=0.0) if teacher is not None and teacher.share == 1 else labels


def _bootstrapped(units: Sequence[Unit], members: int, seed: int) -> tuple[Unit, ...]:
    def draw(prompt: str, member: int) -> float:
        return float(uniform(np.array([stable_hash("bootstrap-prompts", seed, prompt)], dtype=np.uint64), member)[0])

    return tuple(bootstrap(units, members, draw))


def _best(held_out: Sequence[Unit], objective: RewardObjective) -> EarlyStopConfig:
    """What a checkpoint is the best by: accuracy where the held-out labels prefer anything."""

    def prefers(unit: Unit) -> bool:
        if isinstance(unit.target, PairTarget):
            return any(e.label != 0.5 for e in unit.target.edges)
        return not isinstance(unit.target, StepsTarget) and len(set(order_of(unit, objective.scales))) > 1

    if any(prefers(u) for u in held_out):
        return EarlyStopConfig(metric="eval/accuracy", mode="max")
    return EarlyStopConfig(metric="eval/loss")
