"""The online loop's trainer: prompts -> rollouts -> rewards -> credit -> updates -> the sampler's new weights. One for all RL algorithms;
what differs between them is in the ``Algorithm`` that is handed in."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.core.hashing import permutation
from keel.learner.inference import EXTREMES
from keel.loops.auditing import Auditor, refrain_metrics
from keel.loops.config import GroundingConfig, LoopConfig
from keel.loops.control import Coefficients, phase_at
from keel.loops.gathering import Drawn, Gatherer, Rewarder
from keel.loops.grounding import told_apart
from keel.loops.harness import TensorFiles
from keel.loops.keeping import Keeper
from keel.loops.offline import total_steps
from keel.loops.red_team import RedTeam
from keel.methods import Algorithm, Credited, credit, group_metrics, rollout_units
from keel.methods.credit.measures import complexity, staleness, support_metrics
from keel.methods.credit.robust import GroupWeights
from keel.methods.credit.scaling import RewardScale, scaled
from keel.rewards.composition.composer import Composer
from keel.rollout.journal import Journal
from keel.types import (
    BranchTensors,
    Encoded,
    Group,
    Learner,
    Moving,
    PolicyVersion,
    Prompt,
    Sampler,
    SamplingParams,
    Twin,
    Unit,
)
from keel.watch.drift import PromptMeasures, drift

Evaluator = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Actors:
    """Who takes part in RL: the policy that learns, where its samples come from, what it is kept near to, who judges it."""

    policy: Learner
    sampler: Sampler
    reward: Rewarder
    reference_logprobs: Callable[[Sequence[Unit]], BranchTensors] | None  # None: the algorithm has no use for one
    critic: Learner | None = None
    reference: Moving | None = None  # behind ``reference_logprobs``, where it follows the policy

    @property
    def learners(self) -> dict[str, Learner]:
        """Policy and critic by the name of the metric that shows their learning rate."""
        return {"lr": self.policy} if self.critic is None else {"lr": self.policy, "critic/lr": self.critic}


def publish(policy: Learner, sampler: Sampler, version: int) -> None:
    """Hand the policy's weights to the sampler, proven by their digest."""
    weights = policy.weights()
    sampler.load(PolicyVersion(version, weights.digest()), weights)


def with_signal(units: Sequence[Unit], name: str, tensors: BranchTensors) -> tuple[Unit, ...]:
    """Units whose branches carry ``tensors`` as signal ``name``."""
    return tuple(
        replace(
            unit, branches=tuple(replace(b, signals={**b.signals, name: t}) for b, t in zip(unit.branches, branch_tensors, strict=True))
        )
        for unit, branch_tensors in zip(units, tensors, strict=True)
    )


def without_signal(units: Sequence[Unit], name: str) -> list[Unit]:
    """Units whose branches do not carry ``name``."""
    return [
        replace(u, branches=tuple(replace(b, signals={k: t for k, t in b.signals.items() if k != name}) for b in u.branches)) for u in units
    ]


class OnlineTrainer:
    """One step = one set of rollouts and all updates on it. The order of the prompts and all draws are functions of (seed, step). So the
    state is that of the learners, and what is measured in the course of the run: coefficients, the scale of rewards, composition."""

    keep_support = True  # what is trained is the distribution that was drawn from, cut where that was
    may_run_away = True

    def __init__(
        self,
        actors: Actors,
        algorithm: Algorithm,
        prompts: Mapping[str, tuple[Prompt, Encoded]],
        params: SamplingParams,
        samples: int,
        config: LoopConfig,
        seed: int,
        evaluators: Mapping[str, Evaluator],  # by side: "eval", and "test" where there is one
    ) -> None:
        self.actors, self.algorithm, self.config, self.seed, self.evaluators = actors, algorithm, config, seed, evaluators
        self.total_steps = total_steps(config, len(prompts))
        self.gatherer = Gatherer(
            actors.sampler, actors.reward, prompts, Drawn(params, samples, self.keep_support), algorithm, config, seed, self.total_steps
        )
        self.asked = PromptMeasures(e.tokens_T for e in self.gatherer.encoded.values())
        self.coefficients = Coefficients(algorithm, self.total_steps)
        self.scale = RewardScale()
        self.composer: Composer | None = None  # how rewards become one, where that changes in the course of a run
        self.masked: Twin | None = None  # what tells tokens apart that hang on what is masked, and how
        self.grounding = GroundingConfig()
        self.keeper: Keeper | None = None  # who keeps answers for people
        self.auditor: Auditor | None = None  # who asks people about the reward
        self.red_team: RedTeam | None = None  # who tries to game it
        self.robust: GroupWeights | None = None  # which groups of prompts count more
        self.journal: Journal | None = None  # of the sampler, which keeps what it draws there
        self.done = 0  # steps

    def step(self, step: int) -> Mapping[str, float]:
        """Sample, reward, credit, update. A step whose samples all failed changes nothing and says so in its metrics."""
        began = time.perf_counter()
        publish(self.actors.policy, self.actors.sampler, step)
        known = {"time/sync_s": time.perf_counter() - began, **self._enter_phase(step)}
        algorithm = self.coefficients.algorithm(step)
        if self.composer is not None:
            self.composer.begin(step / max(1, self.total_steps))
        sampled, groups, metrics = self.gatherer.groups(step)
        if self.composer is not None:
            metrics |= self.composer.learn(sampled)
        metrics |= known
        started = time.perf_counter()
        self.scale = self.scale.after(groups, algorithm.rewards)
        groups = scaled(groups, self.scale, algorithm.rewards)
        units = self._told_apart(self._with_signals(rollout_units(groups)), step)
        credited = credit(groups, units, algorithm)
        if self.robust is not None:
            weighed, told = self.robust.weigh(sampled, credited.units)
            credited = Credited(weighed, {**credited.metrics, **told})
        counted = time.perf_counter()
        metrics |= {**group_metrics(sampled), **staleness(sampled, step), **support_metrics(sampled)}
        metrics |= {**self.asked([g.encoded.tokens_T for g in sampled]), **credited.metrics}
        metrics |= {**complexity(sampled), **self._looked_at(step + 1, sampled), **self.coefficients.metrics(step)}
        metrics["time/measures_s"] = time.perf_counter() - counted
        old_kl = None
        if self.keeper is not None:
            self.keeper.take(step + 1, sampled, units, credited.units)
        if credited.units:
            updated, old_kl = self._update(credited.units, step, algorithm)
            metrics |= updated
        self.coefficients.update(metrics, sum(int(g.valid_G.sum()) for g in groups), old_kl)
        if self.actors.reference is not None:
            self.actors.reference.follow(step + 1)
        metrics["time/train_s"] = time.perf_counter() - started
        self.done = step + 1
        return metrics

    def _looked_at(self, step: int, sampled: Sequence[Group]) -> dict[str, float]:
        """What the texts of step ``step`` (from 1) show together, and what was asked of people about them."""
        lookers = [looker for looker in (self.auditor, self.red_team) if looker is not None]
        return refrain_metrics(sampled) | {name: value for looker in lookers for name, value in looker.take(step, sampled).items()}

    def _enter_phase(self, step: int) -> dict[str, float]:
        """Set what the step's phase sets; its number as a metric."""
        now = phase_at(self.config.phases, step, self.total_steps)
        if now is None:
            return {}
        self.actors.policy.lr_now = now.lr
        self.actors.policy.train_only(now.train)
        named = {"kl": now.kl_coef, "entropy": now.entropy_coef}
        self.coefficients.fixed = {name: coef for name, coef in named.items() if coef is not None}
        return {"phase": float(now.number)}

    def _with_signals(self, units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        if self.actors.reference_logprobs is not None and self.algorithm.needs_reference:
            units = with_signal(units, "ref_logprobs", self.actors.reference_logprobs(units))
        if self.actors.critic is not None:
            units = with_signal(units, "values", self.actors.critic.values(units))
        if (
            self.algorithm.needs_old_logprobs or self.gatherer.exploration.on or self.gatherer.feed.lag
        ):  # what was sampled from is not the policy
            units = with_signal(units, "old_logprobs", self.actors.policy.logprobs(units))
        return units

    def _told_apart(self, units: tuple[Unit, ...], step: int) -> tuple[Unit, ...]:
        """With the signal ``grounded``, where the algorithm or this step asks for it."""
        every = self.grounding.every
        if self.masked is None or not (self.algorithm.needs_kinds or (every and step % every == 0)):
            return units
        return with_signal(units, "grounded", told_apart(units, self.masked, self.actors.policy.logprobs, self.grounding.above))

    def _update(self, units: Sequence[Unit], step: int, algorithm: Algorithm) -> tuple[dict[str, float], float]:
        """All optimizer steps on one set of rollouts. They end early where the KL to the old policy is above ``old_kl.stop``.

        Returns metrics (means over the steps), and the KL to the old policy (mean over the last pass). At the first step the policy is the
        old policy: the log-probabilities of its own forward pass are the old ones, so the ratio is exactly 1 and the KL exactly 0."""
        sums: defaultdict[str, list[float]] = defaultdict(list)
        old_kls: list[float] = []
        made, stop = 0, algorithm.old_kl.stop
        for epoch in range(algorithm.epochs):
            old_kls.clear()
            for k, part in enumerate(minibatches(units, algorithm.minibatches, self.seed, step, epoch)):
                for learner in self.actors.learners.values():  # rates follow the planned updates, whether they were made or not
                    learner.progress = (step * algorithm.epochs + epoch) * algorithm.minibatches + k
                fresh = without_signal(part, "old_logprobs") if made == 0 else part
                report = self.actors.policy.forward_backward(fresh, algorithm.policy_objective())
                old_kls.append(report.metrics["policy/old_kl_avg"])
                collect(sums, report.metrics)
                if stop is not None and made and old_kls[-1] > stop:
                    self.actors.policy.discard_gradients()
                    return {**means(sums), "policy/updates": float(made)}, _mean(old_kls)
                collect(sums, self.actors.policy.step().metrics)
                if self.actors.critic is not None:
                    report = self.actors.critic.forward_backward(part, algorithm.value_objective())
                    values = {**report.metrics, **self.actors.critic.step().metrics}
                    collect(sums, {name if "/" in name else f"critic/{name}": value for name, value in values.items()})
                made += 1
        return {**means(sums), "policy/updates": float(made)}, _mean(old_kls)

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Held-out prompts, sampled from the newest weights."""
        publish(self.actors.policy, self.actors.sampler, step)
        return self.evaluators["eval"](step)

    def test(self) -> Mapping[str, float]:
        """Test prompts, sampled from the weights that are the result."""
        if "test" not in self.evaluators:
            return {}
        publish(self.actors.policy, self.actors.sampler, self.total_steps)
        return self.evaluators["test"](self.total_steps)

    def adjust(self, lr_scale: float, kl_scale: float) -> Mapping[str, float]:
        """Scale the recipe's learning rates and the coefficient of the KL to the reference."""
        for learner in self.actors.learners.values():
            learner.lr_scale = lr_scale
        self.coefficients.scale = kl_scale
        kl = self.coefficients.algorithm(0).kl
        return {name: x.lr for name, x in self.actors.learners.items()} | ({"kl_coef": kl.coef} if kl is not None else {})

    def drift(self, first: int, last: int) -> Mapping[str, float]:
        """Are the prompts of these steps like all prompts?"""
        asked = [i for step in range(first, last + 1) for i in self.gatherer.prompt_ids(step)]
        return drift([self.gatherer.encoded[i].tokens_T for i in asked], [e.tokens_T for e in self.gatherer.encoded.values()])

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        tensors, state = self.actors.policy.state()
        files: dict[str, Any] = {"policy": tensors}
        states: dict[str, Any] = {"policy": state, "coefficients": self.coefficients.state(), "scale": self.scale.state()}
        if self.composer is not None:
            states["composer"] = self.composer.state()
        if self.gatherer.feed.lag:
            files["rollouts"], states["rollouts"] = self.gatherer.feed.state()
        if self.journal is not None:
            self.journal.behind(self.done)
        if self.robust is not None:
            states["robust"] = self.robust.state()
        if self.actors.reference is not None:
            files["reference"] = self.actors.reference.state()
        if self.actors.critic is not None:
            files["critic"], states["critic"] = self.actors.critic.state()
        return files, states

    def load_state(self, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        self.actors.policy.load_state(tensors["policy"], state["policy"])
        self.coefficients.load_state(state["coefficients"])
        self.scale = RewardScale.of_state(state["scale"])
        if self.composer is not None and "composer" in state:
            self.composer.load_state(state["composer"])
        if self.gatherer.feed.lag:
            self.gatherer.feed.load_state(tensors.get("rollouts", {}), state.get("rollouts", []), self.gatherer.asking)
        if self.robust is not None and "robust" in state:
            self.robust.load_state(state["robust"])
        if self.actors.reference is not None:
            self.actors.reference.load_state(tensors["reference"])
        if self.actors.critic is not None:
            self.actors.critic.load_state(tensors["critic"], state["critic"])


def minibatches(units: Sequence[Unit], n: int, seed: int, step: int, epoch: int) -> list[list[Unit]]:
    """``n`` parts of the units in an order by hash; sizes differ by at most one, empty ones are left out."""
    order = permutation(len(units), "minibatch", seed, step, epoch)
    return [part for i in range(n) if (part := [units[j] for j in order[i::n]])]


def collect(sums: defaultdict[str, list[float]], metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        sums[name].append(value)


def means(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Over a step's updates: means, of metrics named ``.../min`` and ``.../max`` the least and the greatest."""
    return {name: EXTREMES.get(name.rpartition("/")[2], _mean)(values) for name, values in sums.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
