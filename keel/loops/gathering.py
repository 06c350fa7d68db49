"""The first half of a step of the online loop: prompts -> rollouts -> rewarded groups. What is learnt from them is the trainer's
(``online.py``)."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from keel.core.hashing import permutation
from keel.data.batching import units_for_step
from keel.loops.config import ExplorationConfig, LoopConfig
from keel.loops.feed import Feed
from keel.methods import Algorithm
from keel.methods.credit.scaling import rewards_differ, with_overlong_penalty
from keel.types import Encoded, Group, Prompt, Rollout, Sampler, SampleRequest, SamplingParams, empty_group

Rewarder = Callable[[tuple[Group, ...]], tuple[Group, ...]]


@dataclass(frozen=True, slots=True)
class Drawn:
    """How the answers to a prompt are drawn."""

    params: SamplingParams
    samples: int  # of each prompt
    keep_support: bool  # with the tokens that could have been drawn, where sampling is cut


class Gatherer:
    """The rewarded groups of a step. The order of the prompts and all draws are functions of (seed, step)."""

    def __init__(
        self,
        sampler: Sampler,
        reward: Rewarder,
        prompts: Mapping[str, tuple[Prompt, Encoded]],
        drawn: Drawn,
        algorithm: Algorithm,
        config: LoopConfig,
        seed: int,
        total_steps: int,
    ) -> None:
        self.sampler, self.reward, self.drawn, self.algorithm = sampler, reward, drawn, algorithm
        self.config, self.seed = config, seed
        self.encoded = {prompt_id: encoded for prompt_id, (_, encoded) in prompts.items()}
        self.prompts = {prompt_id: prompt for prompt_id, (prompt, _) in prompts.items()}
        self.longest = drawn.params.max_tokens  # tokens that may be sampled of one answer, or of one conversation
        self.exploration = ExplorationConfig()  # how rollouts are drawn otherwise than from the policy, if they are
        self.feed = Feed(0, total_steps - 1)

    def groups(self, step: int) -> tuple[tuple[Group, ...], tuple[Group, ...], dict[str, float]]:
        """All groups that were sampled in a step, those to learn from, and metrics. With dynamic sampling, groups whose rewards are all
        equal are left out and other prompts are sampled in their place, in at most ``refill_rounds`` rounds (Yu et al. 2025,
        arXiv:2503.14476, section 3.2).

        The other prompts come in an order by hash, none twice. A round takes as many as are needed if the share of groups that was kept
        so far stays the same, at most a batch.
        """
        ids = self.prompt_ids(step)
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
        asked = {"seed": self.seed, "attempt": step, "keep_support": self.drawn.keep_support}
        whole = [SampleRequest(i, self.encoded[i], self.drawn.samples, self.drawn.params, **asked) for i in ids]
        requests = [part for r in whole for part in by_temperature(r, self.exploration)]
        if self.algorithm.needs_greedy:
            greedy = replace(self.drawn.params, temperature=0.0)
            requests += [replace(r, n=1, params=greedy, first_sample=self.drawn.samples, keep_support=False) for r in whole]
        return requests

    def asking(self, step: int) -> list[SampleRequest]:
        """What step ``step`` samples first."""
        return self._requests(self.prompt_ids(step), step)

    def _sample(self, ids: Sequence[str], step: int, first: bool = False) -> tuple[tuple[Group, ...], dict[str, float]]:
        """Answers to these prompts with their rewards. Where the baseline is the greedy answer, that is one more sample of each prompt,
        rewarded as the others are; a prompt whose greedy answer failed has no baseline, so none of its samples is valid. ``first``: they
        are the step's own prompts, whose answers may have been drawn before (``feed``)."""
        started = time.perf_counter()
        if first:
            requests, rollouts = self.feed.take(step, self.sampler, self.asking)
            groups = grouped(requests, rollouts, self.prompts)
        else:
            groups = sample_groups(self.sampler, self._requests(ids, step), self.prompts)
        drawn = len(groups) - (len(ids) if self.algorithm.needs_greedy else 0)
        groups = (*merged(groups[:drawn]), *groups[drawn:])
        sampled = time.perf_counter()
        groups = self.reward(groups)
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

    def prompt_ids(self, step: int) -> list[str]:
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


def with_greedy(group: Group, greedy: Group) -> Group:
    """The group with the reward of its prompt's greedy answer, the only sample of ``greedy``."""
    if bool(greedy.valid_G[0]):
        return replace(group, greedy_reward=float(greedy.rewards_G[0]))
    return replace(group, valid_G=torch.zeros_like(group.valid_G))
