"""The online loop's trainer: prompts -> rollouts -> rewards -> credit -> updates -> the sampler's new weights. One for all RL algorithms;
what differs between them is in the ``Algorithm`` that is handed in."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from keel.core.hashing import permutation
from keel.data.batching import units_for_step
from keel.learner.inference import EXTREMES
from keel.loops.auditing import Auditor, refrain_metrics
from keel.loops.config import ExplorationConfig, GroundingConfig, LoopConfig
from keel.loops.control import Coefficients, phase_at
from keel.loops.feed import Feed
from keel.loops.grounding import told_apart
from keel.loops.harness import TensorFiles
from keel.loops.keeping import Keeper
from keel.loops.offline import total_steps
from keel.loops.red_team import RedTeam
from keel.methods import Algorithm, Credited, credit, group_metrics, rollout_units
from keel.methods.credit.measures import complexity, staleness, support_metrics
from keel.methods.credit.robust import GroupWeights
from keel.methods.credit.scaling import RewardScale, rewards_differ, scaled, with_overlong_penalty
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
    Rollout,
    Sampler,
    SampleRequest,
    SamplingParams,
    Twin,
    Unit,
    empty_group,
)
from keel.watch.drift import PromptMeasures, drift

Rewarder = Callable[[tuple[Group, ...]], tuple[Group, ...]]
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


def sample_groups(sampler: Sampler, requests: Sequence[SampleRequest], prompts: Mapping[str, Prompt]) -> tuple[Group, ...]:
    """Draw all requests and put the rollouts of each into a group."""
    sampler.submit(requests)
    return grouped(requests, sampler.collect(), prompts)


def grouped(requests: Sequence[SampleRequest], drawn: Iterable[Rollout], prompts: Mapping[str, Prompt]) -> tuple[Group, ...]:
    """The rollouts of each request as a group, in the order of requests and samples. Requests of one prompt differ in their samples."""
    owner = {(r.prompt_id, r.first_sample + i): k for k, r in enumerate(requests) for i in range(r.n)}
    rollouts: list[list[Rollout]] = [[] for _ in requests]
    for rollout in drawn:
        rollouts[owner[rollout.prompt_id, rollout.sample]].append(rollout)
    return tuple(
        empty_group(prompts[r.prompt_id], r.prompt, sorted(found, key=lambda rollout: rollout.sample))
        for r, found in zip(requests, rollouts, strict=True)
    )


def by_temperature(request: SampleRequest, exploration: ExplorationConfig) -> list[SampleRequest]:
    """The request cut into one for each temperature. They differ in size by at most one; the earlier ones are the larger."""
    params = replace(request.params, explore=exploration.share, explore_temperature=exploration.hot if exploration.share else 1.0)
    parts: list[SampleRequest] = []
    done, temperatures = 0, exploration.temperatures or (params.temperature,)
    for k, temperature in enumerate(temperatures):
        n = len(range(k, request.n, len(temperatures)))
        parts.append(replace(request, n=n, first_sample=request.first_sample + done, params=replace(params, temperature=temperature)))
        done += n
    return [part for part in parts if part.n]


def merged(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Groups of the same prompt become one, in the order of prompts and samples. They have no rewards yet."""
    rollouts: dict[str, list[Rollout]] = {}
    for group in groups:
        rollouts.setdefault(group.prompt.prompt_id, []).extend(group.rollouts)
    first = {g.prompt.prompt_id: g for g in reversed(groups)}
    return tuple(empty_group(first[i].prompt, first[i].encoded, found) for i, found in rollouts.items())


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
        self.actors, self.algorithm, self.params, self.samples = actors, algorithm, params, samples
        self.config, self.seed, self.evaluators = config, seed, evaluators
        self.encoded = {prompt_id: encoded for prompt_id, (_, encoded) in prompts.items()}
        self.prompts = {prompt_id: prompt for prompt_id, (prompt, _) in prompts.items()}
        self.total_steps = total_steps(config, len(prompts))
        self.asked = PromptMeasures(e.tokens_T for e in self.encoded.values())
        self.coefficients = Coefficients(algorithm, self.total_steps)
        self.scale = RewardScale()
        self.composer: Composer | None = None  # how rewards become one, where that changes in the course of a run
        self.masked: Twin | None = None  # what tells tokens apart that hang on what is masked, and how
        self.grounding = GroundingConfig()
        self.keeper: Keeper | None = None  # who keeps answers for people
        self.auditor: Auditor | None = None  # who asks people about the reward
        self.red_team: RedTeam | None = None  # who tries to game it
        self.robust: GroupWeights | None = None  # which groups of prompts count more
        self.longest = params.max_tokens  # tokens that may be sampled of one answer, or of one conversation
        self.exploration = ExplorationConfig()  # how rollouts are drawn otherwise than from the policy, if they are
        self.feed = Feed(0, self.total_steps - 1)
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
        sampled, groups, metrics = self._groups(step)
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

    def _groups(self, step: int) -> tuple[tuple[Group, ...], tuple[Group, ...], dict[str, float]]:
        """All groups that were sampled in a step, those to learn from, and metrics. With dynamic sampling, groups whose rewards are all
        equal are left out and other prompts are sampled in their place, in at most ``refill_rounds`` rounds (Yu et al. 2025,
        arXiv:2503.14476, section 3.2).

        The other prompts come in an order by hash, none twice. A round takes as many as are needed if the share of groups that was kept
        so far stays the same, at most a batch.
        """
        ids = self._prompt_ids(step)
        if not self.algorithm.refill_rounds:
            groups, metrics = self._sample(ids, step, first=True)
            groups = tuple(map(self._shaped, groups))
            return groups, groups, metrics
        names = list(self.prompts)
        spare = [names[i] for i in permutation(len(names), "refill", self.seed, step) if names[i] not in set(ids)]
        sampled: list[Group] = []
        kept: list[Group] = []
        sums: defaultdict[str, float] = defaultdict(float)
        wanted, rounds = ids, 0
        while wanted and rounds < self.algorithm.refill_rounds:
            groups, metrics = self._sample(wanted, step, first=rounds == 0)
            for name, value in metrics.items():
                sums[name] += value
            sampled += map(self._shaped, groups)
            kept += [self._shaped(g) for g in groups if rewards_differ(g)]
            rounds += 1
            missing = max(0, len(ids) - len(kept))
            n = min(len(ids), math.ceil(missing * len(sampled) / max(1, len(kept))))
            wanted, spare = spare[:n], spare[n:]
        counts = {
            "train/num_gen_batches": rounds,
            "dynamic_sampling/sampled_groups": len(sampled),
            "dynamic_sampling/kept_groups": len(kept),
        }
        return tuple(sampled), tuple(kept[: len(ids)]), {**sums, **{name: float(n) for name, n in counts.items()}}

    def _shaped(self, group: Group) -> Group:
        overlong, limit = self.algorithm.overlong, self.longest
        return group if overlong is None else with_overlong_penalty(group, limit, overlong.buffer * limit, overlong.factor)

    def _requests(self, ids: Sequence[str], step: int) -> list[SampleRequest]:
        """What is drawn for these prompts: their samples, and behind them the greedy answers, where those are the baseline."""
        asked = {"seed": self.seed, "attempt": step, "keep_support": self.keep_support}
        whole = [SampleRequest(i, self.encoded[i], self.samples, self.params, **asked) for i in ids]
        requests = [part for r in whole for part in by_temperature(r, self.exploration)]
        if self.algorithm.needs_greedy:
            greedy = replace(self.params, temperature=0.0)
            requests += [replace(r, n=1, params=greedy, first_sample=self.samples, keep_support=False) for r in whole]
        return requests

    def _asking(self, step: int) -> list[SampleRequest]:
        """What step ``step`` samples first."""
        return self._requests(self._prompt_ids(step), step)

    def _sample(self, ids: Sequence[str], step: int, first: bool = False) -> tuple[tuple[Group, ...], dict[str, float]]:
        """Answers to these prompts with their rewards. Where the baseline is the greedy answer, that is one more sample of each prompt,
        rewarded as the others are; a prompt whose greedy answer failed has no baseline, so none of its samples is valid. ``first``: they
        are the step's own prompts, whose answers may have been drawn before (``feed``)."""
        started = time.perf_counter()
        if first:
            requests, rollouts = self.feed.take(step, self.actors.sampler, self._asking)
            groups = grouped(requests, rollouts, self.prompts)
        else:
            groups = sample_groups(self.actors.sampler, self._requests(ids, step), self.prompts)
        drawn = len(groups) - (len(ids) if self.algorithm.needs_greedy else 0)
        groups = (*merged(groups[:drawn]), *groups[drawn:])
        sampled = time.perf_counter()
        groups = self.actors.reward(groups)
        metrics = {
            "tokens": float(sum(len(r) for g in groups for r in g.rollouts)),
            "time/rollout_s": sampled - started,
            "time/reward_s": time.perf_counter() - sampled,
        }
        if self.algorithm.needs_greedy:
            groups = tuple(map(with_greedy, groups[: len(ids)], map(self._shaped, groups[len(ids) :])))
            answered = [g.greedy_reward for g in groups if g.valid_G.any()]
            metrics |= {"reward_greedy": sum(answered) / len(answered)} if answered else {}
        return groups, metrics

    def _prompt_ids(self, step: int) -> list[str]:
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
        return list(dict.fromkeys(p.prompt_id for p in prompts))  # balanced drawing may repeat a prompt: its samples would be the same

    def _with_signals(self, units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        if self.actors.reference_logprobs is not None and self.algorithm.needs_reference:
            units = with_signal(units, "ref_logprobs", self.actors.reference_logprobs(units))
        if self.actors.critic is not None:
            units = with_signal(units, "values", self.actors.critic.values(units))
        if self.algorithm.needs_old_logprobs or self.exploration.on or self.feed.lag:  # what was sampled from is not the policy
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
        asked = [i for step in range(first, last + 1) for i in self._prompt_ids(step)]
        return drift([self.encoded[i].tokens_T for i in asked], [e.tokens_T for e in self.encoded.values()])

    def state(self) -> tuple[TensorFiles, dict[str, Any]]:
        tensors, state = self.actors.policy.state()
        files: dict[str, Any] = {"policy": tensors}
        states: dict[str, Any] = {"policy": state, "coefficients": self.coefficients.state(), "scale": self.scale.state()}
        if self.composer is not None:
            states["composer"] = self.composer.state()
        if self.feed.lag:
            files["rollouts"], states["rollouts"] = self.feed.state()
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
        if self.feed.lag:
            self.feed.load_state(tensors.get("rollouts", {}), state.get("rollouts", []), self._asking)
        if self.robust is not None and "robust" in state:
            self.robust.load_state(state["robust"])
        if self.actors.reference is not None:
            self.actors.reference.load_state(tensors["reference"])
        if self.actors.critic is not None:
            self.actors.critic.load_state(tensors["critic"], state["critic"])


def with_greedy(group: Group, greedy: Group) -> Group:
    """The group with the reward of its prompt's greedy answer, the only sample of ``greedy``."""
    if bool(greedy.valid_G[0]):
        return replace(group, greedy_reward=float(greedy.rewards_G[0]))
    return replace(group, valid_G=torch.zeros_like(group.valid_G))


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
