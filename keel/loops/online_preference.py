"""Online preference optimisation: prompts -> answers -> rewards -> pairs -> a direct preference loss, round after round. Guo et al. 2024
(arXiv:2402.04792) take one update a round, Xu et al. 2023 (arXiv:2312.16682) many."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keel.loops.config import LoopConfig
from keel.loops.online import Actors, Evaluator, OnlineTrainer, collect, means, minibatches, publish
from keel.loops.pairing import Pairing
from keel.methods.credit.assign import CreditRule
from keel.methods.credit.measures import group_metrics, kl_metrics
from keel.methods.credit.units import rollout_units
from keel.methods.objectives.common import edges_of, measured
from keel.methods.objectives.mixture import DirectObjective
from keel.methods.rl_parts import Algorithm
from keel.rewards.composition.composer import Composer
from keel.types import Encoded, Group, Prompt, SamplingParams, Unit

Refer = Callable[[tuple[Unit, ...]], tuple[Unit, ...]]  # gives units what the objective takes from the reference

_LOOP = Algorithm("online preferences", CreditRule("leave_one_out"))  # what the online loop asks: no critic, no refilling, no price of a KL


@dataclass(frozen=True, slots=True)
class Plan:
    """How a round's answers become preferences, and what learns from them how often."""

    objective: DirectObjective
    refer: Refer
    pairing: Pairing
    samples: int
    epochs: int = 1
    minibatches: int = 1
    composer: Composer | None = None


class OnlinePreferenceTrainer(OnlineTrainer):
    """``OnlineTrainer`` whose rounds end in preferences rather than advantages.

    Losses of pairs are about the whole distribution wherever the answers come from, so supports are not asked for; the log-probabilities
    of answers from a cut one are then of another distribution than the reference's, and the KL to it is not among the metrics."""

    keep_support = False

    def __init__(
        self,
        actors: Actors,
        plan: Plan,
        prompts: Mapping[str, tuple[Prompt, Encoded]],
        params: SamplingParams,
        config: LoopConfig,
        seed: int,
        evaluators: Mapping[str, Evaluator],
    ) -> None:
        super().__init__(actors, _LOOP, prompts, params, plan.samples, config, seed, evaluators)
        self.plan, self.composer = plan, plan.composer

    def step(self, step: int) -> Mapping[str, float]:
        """One round. A round without a preference changes nothing and says so (``pairs`` is 0)."""
        publish(self.actors.policy, self.actors.sampler, step)
        phase = self._enter_phase(step)
        if self.composer is not None:
            self.composer.begin(step / max(1, self.total_steps))
        sampled, _, metrics = self.gatherer.groups(step)
        if self.composer is not None:
            metrics |= self.composer.learn(sampled)
        started = time.perf_counter()
        made = self.plan.pairing(sampled, self.seed, step)
        metrics["time/reward_s"] += time.perf_counter() - started
        started = time.perf_counter()
        metrics |= {**phase, **group_metrics(made.groups), **made.metrics, **pair_metrics(made.groups, made.units)}
        metrics |= self._looked_at(step + 1, made.groups)
        if self.keeper is not None:
            self.keeper.take(step + 1, sampled, rollout_units(sampled))
        if trainable(made.units, self.plan.objective):
            referred = self.plan.refer(made.units)
            if self.plan.objective.needs_reference and not self.gatherer.drawn.params.cut:
                kls = kl_metrics(made.groups, referred, 0.0)
                metrics |= {name: value for name, value in kls.items() if name.startswith("objective/kl")}
            metrics |= self._learn(referred, step)
        if self.actors.reference is not None:
            self.actors.reference.follow(step + 1)
        metrics["time/train_s"] = time.perf_counter() - started
        return metrics

    def _learn(self, units: Sequence[Unit], step: int) -> dict[str, float]:
        """All updates of a round; metrics are means over them."""
        sums: defaultdict[str, list[float]] = defaultdict(list)
        learner, made = self.actors.policy, 0
        for epoch in range(self.plan.epochs):
            for k, part in enumerate(minibatches(units, self.plan.minibatches, self.seed, step, epoch)):
                learner.progress = (step * self.plan.epochs + epoch) * self.plan.minibatches + k
                collect(sums, learner.forward_backward(part, measured(self.plan.objective, part, learner.logprobs)).metrics)
                collect(sums, learner.step().metrics)
                made += 1
        return {**means(sums), "policy/updates": float(made)}


def trainable(units: Sequence[Unit], objective: DirectObjective) -> bool:
    """Is there something to learn from? A loss that needs answers to other prompts needs two prompts."""
    prompts = {tuple(u.prompt.tokens_T.tolist()) for u in units}
    return len(prompts) >= (2 if objective.needs_strangers else 1)


def pair_metrics(groups: Sequence[Group], units: Sequence[Unit]) -> dict[str, float]:
    """``pairs``: preferences of a round; ``pairs/prompts``: the share of its prompts that gave one; ``pairs/gap``: mean reward of the
    chosen less that of the rejected."""
    edges = [e for u in units for e in edges_of(u)]
    gap = {"pairs/gap": sum(e.margin for e in edges) / len(edges)} if edges else {}
    return {"pairs": float(len(edges)), "pairs/prompts": len(units) / max(1, len(groups)), **gap}
