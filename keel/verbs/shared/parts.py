"""What stands between a recipe and its training: everything that takes part, built and ready. Build, self-test, train, save: the same way
for every verb that trains. Experiments and tests put the same parts together by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from keel.core.events import EventBus
from keel.loops.control import check_phases
from keel.loops.harness import TrainResult
from keel.loops.offline import OfflineTrainer, Probe, Shown, Sides, total_steps
from keel.loops.ordering import Order
from keel.methods.objectives.common import credited
from keel.models.loading import Loaded
from keel.models.looking import looking
from keel.selftest import CheckName, check_policy_looks, check_reference, check_reward_reads, check_training, largest
from keel.types import Objective, Twin
from keel.verbs.shared.learners import AnyLearner, check_start, close, compare_whole, learner_of, meet
from keel.verbs.shared.recipes import Training, TrainRecipe
from keel.verbs.shared.restarts import gone_on
from keel.verbs.shared.session import Session, open_session, save_final, train
from keel.verbs.shared.units import Splits, datasets
from keel.watch.config import EarlyStopConfig


class Parts(Protocol):
    """Who and what takes part in a training."""

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """Prove the parts on the loaded model and the real data. Raises SelfTestError; leaves the learner as it was."""
        ...

    def train(self, session: Session) -> TrainResult:
        """Train to the end; a run that was cut off goes on from its last checkpoint."""
        ...

    def save(self, session: Session) -> dict[str, Any]:
        """Leave ``final/`` in the run directory; returns what the summary says of the parts."""
        ...

    def close(self) -> None:
        """End processes that were started for them."""
        ...


AnyRecipe = TypeVar("AnyRecipe", bound=TrainRecipe)


def run_parts(
    verb: str,
    build: Callable[[Session, AnyRecipe, Splits], Parts],
    recipe: AnyRecipe,
    path: Path,
    parent: str = "",
    read: Callable[[AnyRecipe], Splits] = datasets,
) -> dict[str, Any]:
    """A stage that trains, from its data to its summary: ``read`` the data, ``build`` the parts, prove them, train, save. Where ranks are
    lost it goes on from the last checkpoint, ``cluster.restarts`` times."""
    check_start(recipe.cluster)

    def run() -> dict[str, Any]:
        splits = read(recipe)
        with open_session(verb, recipe, path, splits.fingerprints, parent, splits.growing) as session:
            if (done := session.finished()) is not None:
                return done
            parts = build(session, recipe, splits)
            with contextlib.closing(parts):
                parts.self_test(session.bus, recipe.settings.skip_self_test)
                result = parts.train(session)
                return session.finish({} if result.interrupted else parts.save(session), result)

    return gone_on(run, path, recipe.cluster.restarts)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineParts:
    """The parts of a training on a file; what learns from demonstrations, labels and logged rewards differs in ``objective`` and
    ``units`` alone."""

    loaded: Loaded
    objective: Objective
    units: Sides
    learner: AnyLearner
    training: Training
    best: EarlyStopConfig = field(default_factory=lambda: EarlyStopConfig(metric="eval/loss"))
    probe: Probe | None = None
    order: Order | None = None
    shown: Shown | None = None  # what a step sees of its units, where that is not the units as they are
    starts_at_reference: bool = False  # the units' reference is the starting weights: at first nothing is between them
    learnt: bool = False  # the policy has been trained before: where there are images it must look at them
    twins: Mapping[str, Twin] = field(default_factory=dict[str, Twin])  # of prompts with images: the pictures taken out
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what there is to tell before training
    told: Callable[[], Mapping[str, Any]] = dict  # and after it

    @classmethod
    def of(cls, loaded: Loaded, objective: Objective, units: Sides, training: Training) -> Self:
        """With the learner that these units need. Where the loss compares whole distributions with the starting weights it holds a copy
        of them; with adapters they are the model itself, adapters off."""
        model, steps = loaded.model, total_steps(training.loop, len(units.train))
        learner = learner_of("policy", model, training.optim, training, steps)
        check_phases(learner, training.loop.phases)
        if "ref_kl" in objective.needs:
            compare_whole(learner)
        return cls(loaded=loaded, objective=objective, units=units, learner=learner, training=training)

    def trainer(self) -> OfflineTrainer:
        """The loop over these parts, one step at a time."""
        loop, seed = self.training.loop, self.training.seed
        trainer = OfflineTrainer(self.learner, self.objective, self.units, loop, seed, self._probe if self.probe else None, self.order)
        trainer.shown = self.shown
        trainer.measures = lambda units: looking(self.learner.whole().model, units)
        return trainer

    def _probe(self, step: int) -> None:
        """The probe draws from the model in this process: it has the newest weights then."""
        assert self.probe is not None
        self.learner.whole()
        self.probe(step)

    def close(self) -> None:
        close(self.learner)

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """The checks of the training on its largest batch; of its reference, where that is the start; that a policy looks at
        images; of a reward model, that it reads."""
        learner, units = self.learner, self.units.train
        ready = credited(self.objective, units)
        check_training(learner, self.objective, ready, bus, skip, largest(ready, self.training.loop.batch_size))
        if self.starts_at_reference:
            check_reference(learner, units, bus, skip)
        if self.learnt:
            check_policy_looks(learner, units, self.twins, bus, skip)
        if "scores" in self.objective.needs:
            check_reward_reads(learner.scores, units, bus, skip)

    def train(self, session: Session) -> TrainResult:
        meet(self.learner, session.run)
        return train(session, self.trainer(), self.best)

    def save(self, session: Session) -> dict[str, Any]:
        """``final/``, read again and compared on held-out units; the summary."""
        save_final(session, self.loaded, self.learner, self.units.held_out or self.units.train)
        return {**self.summary, **self.told()}
