"""The ways to a better policy, each by the loop of its verb, measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from keel.learner.config import OptimConfig
from keel.loops.config import LoopConfig
from keel.loops.offline import Sides
from keel.methods import AlgorithmConfig, resolve
from keel.methods.preference import ObjectiveConfig, preference_objective
from keel.rollout.local import LocalSampler
from keel.types import Group, Prompt, Unit
from keel.verbs.prefer.answers import referred
from keel.verbs.rl.build import RLParts
from keel.verbs.shared.parts import OfflineParts
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.reference import Reference
from labs.study.world import ANSWERS, PARAMS, Meter, Point, Prompts, Source

BATCH, SAMPLES = 8, 16  # of RL: prompts of a step, and answers to each
OFFLINE_BATCH = 8  # prompts of a step of a direct loss, with all their answers
OFFLINE_STEPS = BATCH * SAMPLES // (OFFLINE_BATCH * ANSWERS)  # for one of RL: as many answers
LR, CRITIC_LR = 3e-3, 5e-3


class Steps(Protocol):
    """A trainer."""

    def step(self, step: int) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True)
class Looks:
    """How many steps of RL a run has (a direct loss: as many answers), and after how many each the policy is looked at."""

    steps: int
    every: int

    @property
    def stops(self) -> list[int]:
        """Before the first step, after every so many, after the last."""
        return sorted({*range(0, self.steps + 1, self.every), self.steps})

    def times(self, factor: int) -> Looks:
        return Looks(self.steps * factor, self.every * factor)

    def train(self, trainer: Steps, measure: Callable[[], Point]) -> list[Point]:
        """All steps, and what ``measure`` says at the stops."""
        points = [measure()]
        for step in range(self.steps):
            trainer.step(step)
            if step + 1 in self.stops:
                points.append(measure())
        return points


def reinforced(meter: Meter, source: Source, algorithm: Mapping[str, Any], prompts: Prompts, looks: Looks, seed: int) -> list[Point]:
    """RL for a reward by the loop of ``keel rl``. ``algorithm``: the settings under that name in a recipe."""
    found = resolve(AlgorithmConfig.model_validate(algorithm), SAMPLES)
    loaded = meter.world.policy()
    optim, critic_optim = (OptimConfig(lr=lr, schedule="constant") for lr in (LR, CRITIC_LR))
    critic = (meter.world.policy(frozenset({"value"})), critic_optim) if found.needs_critic else None
    sampler = LocalSampler(loaded.model, lambda tokens_T: "")
    asked = {"train": {name: (Prompt(name, text=""), prompt) for name, prompt in prompts.items()}}
    training, start = Training(optim, LoopConfig(steps=looks.steps, batch_size=BATCH), seed), Reference(meter.reference.logprobs)
    parts = RLParts.of(loaded, found, sampler, judged_by(source), asked, PARAMS, SAMPLES, training, reference=start, critic=critic)
    return looks.train(parts.trainer(), lambda: meter(parts.policy, sampler, source))


def preferred(meter: Meter, votes: tuple[Unit, ...], source: Source, objective: Mapping[str, Any], looks: Looks, seed: int) -> list[Point]:
    """A direct loss on votes by the loop of ``keel prefer``. ``source`` only looks on."""
    loaded, looks = meter.world.policy(), looks.times(OFFLINE_STEPS)
    loss = preference_objective(ObjectiveConfig.model_validate(objective))
    training = Training(OptimConfig(lr=LR, schedule="constant"), LoopConfig(steps=looks.steps, batch_size=OFFLINE_BATCH), seed)
    parts = OfflineParts.of(loaded, loss, Sides(votes), training)
    parts = replace(parts, units=Sides(referred(loss, votes, seed, parts.learner.logprobs)))
    sampler = LocalSampler(loaded.model, lambda tokens_T: "")
    return looks.train(parts.trainer(), lambda: meter(parts.learner, sampler, source))


def judged_by(source: Source) -> Callable[[tuple[Group, ...]], tuple[Group, ...]]:
    """A reward as the online loop takes it."""

    def judge(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        scored = zip(groups, source.score(groups), strict=True)
        return tuple(replace(g, rewards_G=r_G, parts={"reward": r_G}, valid_G=g.valid_G & r_G.isfinite()) for g, r_G in scored)

    return judge
