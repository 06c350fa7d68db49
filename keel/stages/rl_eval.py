"""Held-out prompts in RL: answered, rewarded, measured, and a few of the answers kept for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keel.advantages.measures import group_metrics
from keel.hashing import stable_hash
from keel.loops.online import Actors, sample_groups
from keel.render.renderer import Renderer
from keel.rollout.config import EvalSamplingConfig
from keel.runs.directory import RunDir
from keel.types import Encoded, Group, Prompt, SampleRequest, SamplingParams

EVAL_SEED = 1_000_003  # held-out prompts draw their own numbers, the same at every evaluation


def evaluators_of(
    sides: Mapping[str, Mapping[str, tuple[Prompt, Encoded]]],
    actors: Actors,
    params: SamplingParams,
    sampling: EvalSamplingConfig,
    renderer: Renderer,
    run: RunDir,
    probes: int,
) -> dict[str, RolloutEvaluator]:
    """One evaluator a side, by its name."""
    own = replace(params, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)
    return {side: RolloutEvaluator(side, actors, found, own, sampling.samples, renderer, run, probes) for side, found in sides.items()}


@dataclass(frozen=True, slots=True)
class RolloutEvaluator:
    """Callable: rewards of fresh answers to ``prompts``, drawn by ``params`` whatever the training draws by; names start with ``side/``.

    Writes the answers that people look at: the first ``probes`` prompts always, the worst, the best, and one at random.
    """

    side: str
    actors: Actors
    prompts: Mapping[str, tuple[Prompt, Encoded]]
    params: SamplingParams
    samples: int
    renderer: Renderer
    run: RunDir
    probes: int

    def __call__(self, step: int) -> Mapping[str, float]:
        if not self.prompts:
            return {}
        requests = [SampleRequest(i, encoded, self.samples, self.params, EVAL_SEED) for i, (_, encoded) in self.prompts.items()]
        groups = self.actors.reward(sample_groups(self.actors.sampler, requests, {i: p for i, (p, _) in self.prompts.items()}))
        self.run.write_sample(step, [self._row(groups[k], why, step) for k, why in self._picked(groups, step).items()])
        return {f"{self.side}/{name}": value for name, value in group_metrics(groups).items()}

    def _picked(self, groups: Sequence[Group], step: int) -> dict[int, str]:
        order = sorted(range(len(groups)), key=lambda k: float(groups[k].rewards_G[0]))
        fixed = dict.fromkeys(range(min(self.probes, len(groups))), "fixed")
        rest = [k for k in order[1:-1] if k not in fixed]
        chance = {rest[stable_hash("random sample", step) % len(rest)]: "random"} if rest else {}
        return {**fixed, **chance, order[0]: "worst", order[-1]: "best"}

    def _row(self, group: Group, why: str, step: int) -> dict[str, str | int | float]:
        first = group.rollouts[0]
        raw = self.renderer.tokenizer.decode(first.tokens_T, skip_special_tokens=False)
        answer = {"prompt": group.prompt.last_user_text, "text": first.text, "raw": raw, "reward": float(group.rewards_G[0])}
        return {"step": step, **answer, "why": why}
