"""Who and what takes part in RL, from a recipe or put together by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from keel.core.events import EventBus
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.loops.config import ExplorationConfig, LoopConfig
from keel.loops.harness import TrainResult
from keel.loops.offline import total_steps
from keel.loops.online import Actors, Evaluator, OnlineTrainer, Rewarder, with_signal
from keel.methods import Algorithm
from keel.models.loading import Loaded
from keel.models.model import Model
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.rewards import Reward
from keel.selftest import CheckName, check_reference, check_sampling, check_training
from keel.types import Sampler, SamplingParams, Unit
from keel.verbs.shared.prompts import Prompts
from keel.verbs.shared.reference import Reference, actors_of, reference_of
from keel.verbs.shared.sampled import answered, check_rewards, longest_batch, refused_answers, train_sampled
from keel.verbs.shared.session import Session, save_final
from keel.watch.config import EarlyStopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RLParts:
    """The parts of a training by RL."""

    loaded: Loaded
    algorithm: Algorithm
    policy: LocalLearner
    sampler: Sampler
    reward: Rewarder
    reference: Reference | None
    critic: LocalLearner | None
    prompts: Mapping[str, Prompts]  # by side: train, and perhaps held_out and test
    params: SamplingParams
    samples: int
    loop: LoopConfig
    seed: int
    rewards: tuple[Reward, ...] = ()  # behind ``reward``
    composer: Composer | None = None
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    evaluators: Mapping[str, Evaluator] = field(default_factory=dict[str, Evaluator])
    best: EarlyStopConfig = field(default_factory=lambda: EarlyStopConfig(metric="eval/reward", mode="max"))
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what there is to tell before training

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        algorithm: Algorithm,
        sampler: Sampler,
        reward: Rewarder,
        prompts: Mapping[str, Prompts],
        params: SamplingParams,
        *,
        samples: int,
        optim: OptimConfig,
        loop: LoopConfig,
        seed: int = 0,
        batch: BatchConfig | None = None,
        reference: Reference | None = None,
        other: Model | None = None,
        critic: Loaded | None = None,
        critic_optim: OptimConfig | None = None,
    ) -> Self:
        """With the learners that the algorithm needs. Its reference is ``reference``, or ``other``, or the weights as they are now;
        ``critic`` is a model with a value head."""
        batch, updates = batch or BatchConfig(), total_steps(loop, len(prompts["train"])) * algorithm.epochs * algorithm.minibatches
        policy = LocalLearner(loaded.model, optim, batch, updates, seed, params.temperature or 1.0)
        if algorithm.kl is not None and reference is None:
            reference = reference_of(policy, algorithm.kl.reference, other)
        valued = LocalLearner(critic.model, critic_optim or optim, batch, updates, seed) if critic is not None else None
        return cls(
            loaded=loaded,
            algorithm=algorithm,
            policy=policy,
            sampler=sampler,
            reward=reward,
            reference=reference if algorithm.kl is not None else None,
            critic=valued,
            prompts=prompts,
            params=params,
            samples=samples,
            loop=loop,
            seed=seed,
        )

    @property
    def actors(self) -> Actors:
        """Those that the loop knows."""
        return actors_of(self.policy, self.sampler, self.reward, self.reference, self.critic)

    def trainer(self) -> OnlineTrainer:
        """The loop over these parts, one step at a time."""
        prompts = self.prompts["train"]
        trainer = OnlineTrainer(self.actors, self.algorithm, prompts, self.params, self.samples, self.loop, self.seed, self.evaluators)
        trainer.exploration, trainer.composer = self.exploration, self.composer if self.rewards else None
        return trainer

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """The checks of policy and critic on real rollouts of the starting policy and on the largest batch; the reward models read what
        they score."""
        algorithm, prompts = self.algorithm, self.prompts["train"]
        units = check_sampling(self.policy, self.sampler, list(prompts.values()), self.params, bus, skip)
        ready = [_ready(u) for u in units]
        if self.reference is not None:
            ready = list(with_signal(ready, "ref_logprobs", self.reference.logprobs(ready)))
            if not algorithm.taught:  # a teacher is not where training starts
                check_reference(self.policy, ready, bus, skip)
        longest = longest_batch(ready, prompts, -(-self.loop.batch_size // algorithm.minibatches), self.samples, self.params.max_tokens)
        check_training(self.policy, algorithm.policy_objective(), ready, bus, skip, longest)
        if self.critic is not None:
            check_training(self.critic, algorithm.value_objective(), ready, bus, skip, longest)
        check_rewards(self.rewards, units, bus, skip)

    def train(self, session: Session) -> TrainResult:
        return train_sampled(session, self.trainer(), self.best, self.reward, "no step had a sample to learn from")

    def save(self, session: Session) -> dict[str, Any]:
        """``final/``, read again and compared on the policy's own answers, and ``critic/``; the summary."""
        units = answered(self.sampler, self.prompts.get("held_out") or self.prompts["train"], self.params)
        save_final(session, self.loaded, self.policy, units)
        if self.critic is not None:
            self.critic.save(session.run.path / "critic", self.loaded.tokenizer, self.loaded.processor)
        composed = {"composition": self.composer.summary()} if self.composer is not None else {}
        return {**self.summary, **refused_answers(self.rewards), **composed}


def _ready(unit: Unit) -> Unit:
    """A sampled unit with advantages that make a gradient and a loss that is not 0: 1 for the first branch, -1/2 for the others; the same
    are the critic's returns, where it had expected 0."""
    advantages = tuple(b.trained_T.float() * (1.0 if i == 0 else -0.5) for i, b in enumerate(unit.branches))
    signals = {"advantages": advantages, "returns": advantages, "values": tuple(torch.zeros_like(a_T) for a_T in advantages)}
    for name, tensors in signals.items():
        (unit,) = with_signal([unit], name, [tensors])
    return unit
