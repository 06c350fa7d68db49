"""The parts of a reward model's training: head and losses that fit the labels, units of all kinds of them, the order of the rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate.blindness import REMEDY, changed, scores_are_right, scores_move
from keel.loops.ordering import Order
from keel.methods.objectives.reward import BOOTSTRAP, RewardObjective, bootstrap, order_of
from keel.types import PairTarget, StepsTarget, Unit
from keel.verbs.reward.config import TeacherConfig
from keel.verbs.reward.labels import Labels, labels_line, read_labels, settle
from keel.verbs.reward.members import accuracy_of, check_member, held_out_measures, save_member, scale, start_of
from keel.verbs.reward.order import judges
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.reward.refresh import forgotten, remembered, taught
from keel.verbs.shared.account import Account
from keel.verbs.shared.augment import shown
from keel.verbs.shared.labels import reward_units
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.rewards import write_scale
from keel.verbs.shared.session import Session, load, record, save_final
from keel.verbs.shared.units import Splits, prepare
from keel.watch.config import EarlyStopConfig

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardParts(OfflineParts):
    """The parts of one reward model; ``is_member``: it is one of an ensemble. ``remember`` measures it on earlier data."""

    is_member: bool = False
    remember: Callable[[], dict[str, float]] = dict
    remembered: Mapping[str, float] = field(default_factory=dict[str, float])  # before training
    replayed: int = 0

    def save(self, session: Session) -> dict[str, Any]:
        """``final/`` (a sequence classifier with one label where its head is a plain one; of a member that is an adapter ``adapter/``
        alone) with the scale of its scores; the summary with its held-out measures."""
        learner, units, path = self.learner, self.units, session.run.path
        whole = learner.whole()
        constants, measures = scale(whole, units.train), held_out_measures(whole, units)
        if self.is_member:
            save_member(session, self.loaded)
        else:
            save_final(session, self.loaded, learner, units.held_out or units.train)
        write_scale(path / ("final" if (path / "final").exists() else "adapter"), constants | accuracy_of(measures))
        looks = self._looks(session)
        return {**self.summary, "scale": constants, **measures, **looks, **forgotten(self.remembered, self.remember(), self.replayed)}

    def _looks(self, session: Session) -> dict[str, Any]:
        """Where there are images: does the trained model look at them? A blind one is told of; it is refused where it is to judge."""
        pairs = changed(self.units.held_out or self.units.train, self.twins)
        look = scores_move(self.learner.scores, pairs)
        if look is None:
            return {}
        if look.blind:
            session.bus.emit("warning", self.learner.updates, f"the reward model is blind: {look.finding}. What helps: {REMEDY}")
        return {"looks": look.to_json() | {"right": scores_are_right(self.learner.scores, pairs)}}


def build(session: Session, recipe: RewardRecipe, splits: Splits) -> RewardParts:
    """Read the labels, load a model with the head that fits them, render, and order the rows."""
    start = start_of(recipe)
    labels = read_labels(splits.train)
    spec, objective = settle(recipe.head, recipe.loss, recipe.margin, recipe.centring, _as_taught(labels, recipe.teacher))
    log.info("%s", labels_line(labels, spec, objective))
    loaded, renderer = load(start, heads=frozenset({"score"}), lora=recipe.lora, score=spec)
    check_member(recipe, loaded)
    record(session, loaded, renderer)
    account = Account(session.run.path, recipe.settings.max_refused, **splits.sides)
    dimensions = objective.dimensions if labels.ratings else ()
    units = prepare(account, renderer, lambda dataset: reward_units(renderer, dataset, dimensions))
    train = taught(units.train, recipe, loaded.model, loaded.tokenizer)
    if recipe.ensemble is not None and recipe.ensemble.bootstrap:
        train = _drawn(train, start.seed)
    elif spec.members > 1 and recipe.head.bootstrap:
        train = _bootstrapped(train, spec.members, start.seed)
    units = replace(units, train=train)
    parts = RewardParts.of(loaded, objective, units, start.training)
    learner = parts.learner

    def remember() -> dict[str, float]:
        return remembered(learner.whole(), renderer, splits.earlier, dimensions)

    asked = judges(train, recipe, loaded, learner)
    pairs = sum(len(u.target.edges) for u in train if isinstance(u.target, PairTarget))
    found = {"labels": labels.summary(), "head": spec.to_json(), "loss": objective.pairs, "pairs": pairs, "data": account.summary()}
    return replace(
        parts,
        best=_best(units.held_out, objective),
        order=Order(train, recipe.loop, recipe.order, start.seed, learner.total_steps, asked),
        summary=found,
        is_member=recipe.ensemble is not None,
        remember=remember,
        remembered=remember(),
        twins=renderer.twins,
        shown=shown(recipe.augment, renderer, start.seed, train),
        replayed=sum(one.replayed for one in splits.earlier),
    )


def _drawn(units: Sequence[Unit], seed: int) -> tuple[Unit, ...]:
    """What one member sees: its draw of the prompts, those drawn several times with that weight. All of them, where the draw is empty."""
    drawn = _bootstrapped(units, 1, seed)
    return tuple(u for u in drawn if u.meta[BOOTSTRAP] != (0.0,)) or tuple(units)


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
