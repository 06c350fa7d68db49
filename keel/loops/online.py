"""The online loop's trainer: prompts -> rollouts -> rewards -> credit -> updates -> the sampler's new weights. One for all RL algorithms;
what differs between them is in the ``Algorithm`` that is handed in."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from keel.algorithms import Algorithm, credit, group_metrics, rollout_units
from keel.data.batching import units_for_step
from keel.hashing import permutation
from keel.learner.local import LocalLearner
from keel.loops.config import LoopConfig
from keel.loops.harness import TensorFiles
from keel.loops.offline import total_steps
from keel.types import (
    Encoded,
    Group,
    Objective,
    PolicyVersion,
    Prompt,
    Rollout,
    Sampler,
    SampleRequest,
    SamplingParams,
    Unit,
    empty_group,
)

BranchTensors = list[tuple[Tensor, ...]]  # per unit, per branch: [T]
Rewarder = Callable[[tuple[Group, ...]], tuple[Group, ...]]
Evaluator = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Actors:
    """Who takes part in RL: the policy that learns, where its samples come from, what it is kept near to, who judges it."""

    policy: LocalLearner
    sampler: Sampler
    reward: Rewarder
    reference_logprobs: Callable[[Sequence[Unit]], BranchTensors] | None  # None: the algorithm has no use for a reference
    critic: LocalLearner | None = None


def publish(policy: LocalLearner, sampler: Sampler, version: int) -> None:
    """Hand the policy's weights to the sampler, proven by their digest."""
    sampler.load(PolicyVersion(version, policy.model.digest()))


def sample_groups(sampler: Sampler, requests: Sequence[SampleRequest], prompts: Mapping[str, Prompt]) -> tuple[Group, ...]:
    """Draw all requests and put the rollouts of each into a group, in the order of requests and samples."""
    sampler.submit(requests)
    by_prompt: defaultdict[str, list[Rollout]] = defaultdict(list)
    for rollout in sampler.collect():
        by_prompt[rollout.prompt_id].append(rollout)
    return tuple(
        empty_group(prompts[r.prompt_id], r.prompt, sorted(by_prompt[r.prompt_id], key=lambda rollout: rollout.sample)) for r in requests
    )


def with_signal(units: Sequence[Unit], name: str, tensors: BranchTensors) -> tuple[Unit, ...]:
    """Units whose branches carry ``tensors`` as signal ``name``."""
    return tuple(
        replace(
            unit, branches=tuple(replace(b, signals={**b.signals, name: t}) for b, t in zip(unit.branches, branch_tensors, strict=True))
        )
        for unit, branch_tensors in zip(units, tensors, strict=True)
    )


class OnlineTrainer:
    """One step = one set of rollouts and all updates on it. The prompts' order and all draws are functions of (seed, step), so the state is
    that of the learners alone."""

    def __init__(
        self,
        actors: Actors,
        algorithm: Algorithm,
        prompts: Mapping[str, tuple[Prompt, Encoded]],
        params: SamplingParams,
        samples: int,
        config: LoopConfig,
        seed: int,
        evaluator: Evaluator,
    ) -> None:
        self.actors, self.algorithm, self.params, self.samples = actors, algorithm, params, samples
        self.config, self.seed, self.evaluator = config, seed, evaluator
        self.encoded = {prompt_id: encoded for prompt_id, (_, encoded) in prompts.items()}
        self.prompts = {prompt_id: prompt for prompt_id, (prompt, _) in prompts.items()}

    @property
    def total_steps(self) -> int:
        return total_steps(self.config, len(self.prompts))

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps on the rollouts of one step."""
        return self.algorithm.epochs * self.algorithm.minibatches

    def step(self, step: int) -> Mapping[str, float]:
        """Sample, reward, credit, update. A step whose samples all failed changes nothing and says so in its metrics."""
        started = time.perf_counter()
        publish(self.actors.policy, self.actors.sampler, step)
        groups = sample_groups(self.actors.sampler, self._requests(step), self.prompts)
        sampled = time.perf_counter()
        groups = self.actors.reward(groups)
        rewarded = time.perf_counter()
        units = self._with_signals(rollout_units(groups))
        credited = credit(groups, units, self.algorithm)
        metrics = {**group_metrics(groups), **credited.metrics}
        if credited.units:
            metrics |= self._update(credited.units, step)
        metrics["tokens"] = float(sum(len(r) for g in groups for r in g.rollouts))
        metrics["time/rollout_s"] = sampled - started
        metrics["time/reward_s"] = rewarded - sampled
        metrics["time/train_s"] = time.perf_counter() - rewarded
        return metrics

    def _requests(self, step: int) -> list[SampleRequest]:
        c = self.config
        prompts = units_for_step(
            list(self.prompts.values()),
            step,
            c.batch_size,
            self.seed,
            drop_last=c.last_batch == "drop",
            by_length=c.group_by_length,
            balance_by=c.balance_by,
        )
        ids = list(dict.fromkeys(p.prompt_id for p in prompts))  # balanced drawing may repeat a prompt: its samples would be the same
        return [SampleRequest(i, self.encoded[i], self.samples, self.params, self.seed, attempt=step) for i in ids]

    def _with_signals(self, units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        if self.actors.reference_logprobs is not None:
            units = with_signal(units, "ref_logprobs", self.actors.reference_logprobs(units))
        if self.actors.critic is not None:
            units = with_signal(units, "values", self.actors.critic.values(units))
        if self.algorithm.needs_old_logprobs:
            units = with_signal(units, "old_logprobs", self.actors.policy.logprobs(units))
        return units

    def _update(self, units: Sequence[Unit], step: int) -> dict[str, float]:
        """All optimizer steps on one set of rollouts; metrics are means over them."""
        sums: defaultdict[str, list[float]] = defaultdict(list)
        critic = self.actors.critic
        objective = self.algorithm.policy_objective()
        for epoch in range(self.algorithm.epochs):
            for part in minibatches(units, self.algorithm.minibatches, self.seed, step, epoch):
                for name, value in _one_update(self.actors.policy, part, objective).items():
                    sums[name].append(value)
                if critic is not None:
                    for name, value in _one_update(critic, part, self.algorithm.value_objective()).items():
                        sums[name if "/" in name else f"critic/{name}"].append(value)
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Held-out prompts, sampled from the newest weights."""
        publish(self.actors.policy, self.actors.sampler, step)
        return self.evaluator(step)

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        tensors, state = self.actors.policy.state()
        files, states = {"policy": tensors}, {"policy": state}
        if self.actors.critic is not None:
            files["critic"], states["critic"] = self.actors.critic.state()
        return files, states

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self.actors.policy.load_state(tensors["policy"], state["policy"])
        if self.actors.critic is not None:
            self.actors.critic.load_state(tensors["critic"], state["critic"])


def minibatches(units: Sequence[Unit], n: int, seed: int, step: int, epoch: int) -> list[list[Unit]]:
    """``n`` parts of the units in an order by hash; sizes differ by at most one, empty ones are left out."""
    order = permutation(len(units), "minibatch", seed, step, epoch)
    return [part for i in range(n) if (part := [units[j] for j in order[i::n]])]


def _one_update(learner: LocalLearner, units: Sequence[Unit], objective: Objective) -> dict[str, float]:
    report = learner.forward_backward(units, objective)
    return {**report.metrics, **learner.step().metrics}
