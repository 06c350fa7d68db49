"""Held-out prompts in RL: answered, rewarded, measured, and a few of the answers kept for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from keel.core.hashing import stable_hash
from keel.loops.gathering import sample_groups
from keel.loops.keeping import Keeper
from keel.loops.offline import Measures
from keel.loops.online import Actors
from keel.methods import group_metrics, rollout_units
from keel.render.renderer import Renderer
from keel.rollout.config import EvalSamplingConfig
from keel.runs import evaluations
from keel.runs.directory import RunDir
from keel.types import Encoded, Group, Prompt, Sampler, SampleRequest, SamplingParams

EVAL_SEED = 1_000_003  # held-out prompts draw their own numbers, the same at every evaluation


def eval_params(params: SamplingParams, sampling: EvalSamplingConfig) -> SamplingParams:
    """The distribution that answers are drawn from which only measure: temperature, top_p and top_k of ``sampling``; ``params`` (the
    training's) says how an answer ends and what is never sampled. Nothing is explored."""
    own = replace(params, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)
    return replace(own, explore=0.0, explore_temperature=1.0)


def measured_answers(
    sampler: Sampler, prompts: Mapping[str, tuple[Prompt, Encoded]], params: SamplingParams, sampling: EvalSamplingConfig
) -> tuple[Group, ...]:
    """``sampling.samples`` answers to every prompt, not rewarded yet: the one way in which answers are drawn to be measured. So two
    draws from the same weights are the same answers, and a policy ties with itself."""
    own = eval_params(params, sampling)
    requests = [SampleRequest(i, encoded, sampling.samples, own, EVAL_SEED) for i, (_, encoded) in prompts.items()]
    return sample_groups(sampler, requests, {i: prompt for i, (prompt, _) in prompts.items()})


def evaluators_of(
    sides: Mapping[str, Mapping[str, tuple[Prompt, Encoded]]],
    actors: Actors,
    params: SamplingParams,
    sampling: EvalSamplingConfig,
    renderer: Renderer,
    run: RunDir,
    probes: int,
    taught: bool = False,
    measures: Measures | None = None,
    keeper: Keeper | None = None,
) -> dict[str, RolloutEvaluator]:
    """One evaluator a side, by its name. ``taught``: the actors' reference is a teacher, and the distance to it is measured. ``measures``:
    what else is told of the answers. ``keeper``: who keeps those that people look at whole."""
    asked = params, sampling, renderer, run, probes, taught, measures, keeper
    return {side: RolloutEvaluator(side, actors, found, *asked) for side, found in sides.items()}


@dataclass(frozen=True, slots=True)
class RolloutEvaluator:
    """Callable: rewards of fresh answers to ``prompts``, drawn as ``eval_params`` says; names start with ``side/``.

    Writes what each prompt got (``runs.evaluations``), and the answers that people look at: the first ``probes`` prompts always, the worst,
    the best, and one at random.
    """

    side: str
    actors: Actors
    prompts: Mapping[str, tuple[Prompt, Encoded]]
    params: SamplingParams  # the training's
    sampling: EvalSamplingConfig
    renderer: Renderer
    run: RunDir
    probes: int
    taught: bool = False
    measures: Measures | None = None
    keeper: Keeper | None = None

    def __call__(self, step: int) -> Mapping[str, float]:
        if not self.prompts:
            return {}
        groups = self.actors.reward(measured_answers(self.actors.sampler, self.prompts, self.params, self.sampling))
        evaluations.write(self.run.path, self.side, step, map(_got, groups))
        shown = self._picked(groups, step)
        part = self.side if self.side == "test" else ""  # evaluations are cut with their steps, the test comes after the last checkpoint
        self.run.write_sample(step, [self._row(groups[k], why, step) for k, why in shown.items()], part)
        if self.keeper is not None:
            self.keeper.measured(step, groups, {(k, 0): why for k, why in shown.items()}, rollout_units(groups))
        more = self.measures(rollout_units(groups)) if self.measures is not None else {}
        return {f"{self.side}/{name}": value for name, value in {**group_metrics(groups), **self._distance(groups), **more}.items()}

    def _distance(self, groups: Sequence[Group]) -> dict[str, float]:
        """``teacher/kl``: the reverse KL to the teacher in nats per token, k1 of the tokens that were sampled."""
        if not self.taught or not (units := rollout_units(groups)):
            return {}
        teacher = self.actors.reference_logprobs
        assert teacher is not None, "a teacher is asked for its log-probabilities"
        apart = [p - t for own, other in zip(self.actors.policy.logprobs(units), teacher(units), strict=True) for p, t in zip(own, other)]
        return {"teacher/kl": float(torch.cat(apart).double().sum()) / sum(int(b.trained_T.sum()) for u in units for b in u.branches)}

    def _picked(self, groups: Sequence[Group], step: int) -> dict[int, str]:
        """Which prompts' first answers are kept, and why. One without a reward is neither the worst nor the best."""
        judged = [k for k, group in enumerate(groups) if bool(group.valid_G[0])]
        order = sorted(judged, key=lambda k: float(groups[k].rewards_G[0]))
        fixed = dict.fromkeys(range(min(self.probes, len(groups))), "fixed")
        rest = [k for k in order[1:-1] if k not in fixed]
        chance = {rest[stable_hash("random sample", step) % len(rest)]: "random"} if rest else {}
        return {**fixed, **chance, **({order[0]: "worst", order[-1]: "best"} if order else {})}

    def _row(self, group: Group, why: str, step: int) -> dict[str, Any]:
        first = group.rollouts[0]
        raw = self.renderer.tokenizer.decode(first.tokens_T, skip_special_tokens=False)
        answer = {"prompt": group.prompt.last_user_text, "text": first.text, "raw": raw}
        reward = {"reward": float(group.rewards_G[0])} if bool(group.valid_G[0]) else {}
        turns = {"turns": first.conversation.told()} if first.conversation is not None else {}
        return {"step": step, **answer, **turns, **reward, "why": why}


def _got(group: Group) -> dict[str, Any]:
    """A prompt's mean reward over its valid answers and by source over those that it judged; NaN where there are none."""
    valid_G = group.valid_G
    parts = {name: float(part_G[valid_G & part_G.isfinite()].double().mean()) for name, part_G in group.parts.items()}
    reward = float(group.rewards_G[valid_G].double().mean())
    return {"prompt_id": group.prompt.prompt_id, "answers": int(valid_G.sum()), "reward": reward, "parts": parts}
