"""What verbs that sample share: the largest batch that can come, answers for comparisons, what was not rewarded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from keel.core.events import EventBus
from keel.loops.gathering import sample_groups
from keel.methods import rollout_units
from keel.render.renderer import Renderer
from keel.rewards.composition.rewards import Reward
from keel.rewards.sources.ensemble import EnsembleSource
from keel.rewards.sources.model import ModelSource, Scorer, units_of
from keel.selftest import CheckName, check_reward_reads
from keel.types import Branch, Group, Sampler, SampleRequest, SamplingParams, Twin, Unit
from keel.verbs.shared.prompts import Prompts
from keel.verbs.shared.reread import UNITS
from keel.verbs.shared.sampled_eval import EVAL_SEED

LOOKED_AT = 16  # prompts


def refused_answers(rewards: Sequence[Reward]) -> dict[str, Any]:
    """How many answers of this process got no reward because an ensemble's members disagreed, by reward; {} where nothing refuses."""
    sources = [r.source for r in rewards if isinstance(r.source, EnsembleSource) and r.source.config.refuse_above is not None]
    return {"not_rewarded": {s.name: {"refused": s.refused, "scored": s.scored} for s in sources}} if sources else {}


def answered(sampler: Sampler, prompts: Prompts, params: SamplingParams) -> Sequence[Unit]:
    """The policy's own answers to the first prompts, one each."""
    some = dict(list(prompts.items())[:UNITS])
    requests = [SampleRequest(i, encoded, 1, params, EVAL_SEED, keep_support=True) for i, (_, encoded) in some.items()]
    groups = sample_groups(sampler, requests, {i: p for i, (p, _) in some.items()})
    return rollout_units(groups)


def fit_scores(
    sampler: Sampler, prompts: Prompts, params: SamplingParams, samples: int, renderer: Renderer
) -> Callable[[Scorer], Sequence[Tensor]]:
    """Scores of the starting policy's answers to these prompts, for the scale of a reward model that has none stored."""

    def scores(scorer: Scorer) -> Sequence[Tensor]:
        requests = [SampleRequest(i, encoded, max(2, samples), params, EVAL_SEED) for i, (_, encoded) in prompts.items()]
        groups = sample_groups(sampler, requests, {i: p for i, (p, _) in prompts.items()})
        return scorer([unit for g in groups if (unit := units_of(g, renderer.closed)[0]) is not None])

    return scores


def looking_answers(sampler: Sampler, prompts: Prompts, params: SamplingParams) -> Sequence[Group]:
    """One answer, not longer than 64 tokens, to each of the first prompts that show images: what is looked at when they are changed."""
    some = dict([(i, p) for i, p in prompts.items() if p[1].media][:LOOKED_AT])
    longest = min(64, params.max_tokens)
    short = replace(params, max_tokens=longest, min_tokens=min(longest, params.min_tokens))
    requests = [SampleRequest(i, encoded, 1, short, EVAL_SEED, keep_support=True) for i, (_, encoded) in some.items()]
    return sample_groups(sampler, requests, {i: p for i, (p, _) in some.items()}) if some else ()


def check_rewards(
    rewards: Sequence[Reward],
    units: Sequence[Unit],
    bus: EventBus,
    skip: Sequence[CheckName],
    pictured: Sequence[Group] = (),
    twins: Mapping[str, Twin] | None = None,
) -> None:
    """Every reward model reads what it scores: ``units``, or answers to prompts with images where there are any, as it will get them."""
    for reward in rewards:
        if isinstance(source := reward.source, ModelSource | EnsembleSource):
            closed = [unit for g in pictured if (unit := units_of(g, source.ending)[0]) is not None]
            check_reward_reads(source.scorer, closed or units, bus, skip, twins or {})


def longest_answered(sides: Iterable[Prompts], params: SamplingParams) -> int:
    """Tokens of the longest prompt with its longest answer."""
    return max((len(encoded) for side in sides for _, encoded in side.values()), default=1) + params.max_tokens


def longest_batch(ready: Sequence[Unit], prompts: Prompts, n: int, samples: int, max_tokens: int) -> list[Unit]:
    """The largest batch that an update may have: the ``n`` longest prompts, each with ``samples`` completions of ``max_tokens``. Tokens,
    signals and supports of the first unit in ``ready`` are repeated to that length."""
    if not ready:
        return []
    branch = ready[0].branches[0]

    again_T = torch.arange(max_tokens) % len(branch)
    signals = {name: signal_T[again_T] for name, signal_T in branch.signals.items()}
    support = None if branch.support is None else branch.support.take(again_T)
    full = Branch(branch.tokens_T[again_T], branch.trained_T[again_T], signals, support)
    encoded = sorted((encoded for _, encoded in prompts.values()), key=lambda e: -len(e))[:n]
    return [replace(ready[0], unit_id=f"longest-{i}", prompt=e, branches=(full,) * samples) for i, e in enumerate(encoded)]
