"""Which answer is better? By rewards or by a judge of two: what online preferences ask in training and in evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from keel.loops.gathering import Rewarder
from keel.loops.pairing import PairByJudge, PairByReward, Pairing
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.build import comparing_source
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.rewards import Reward, RunRewards
from keel.rewards.sources.duels import Duel, PairJudge
from keel.rewards.sources.python import CompareConfig
from keel.types import Group, Sampler, SamplingParams
from keel.verbs.prefer.online_config import OnlineConfig
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.shared.asking import askers_of
from keel.verbs.shared.prompts import Prompts
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled import fit_scores
from keel.verbs.shared.sampled_eval import measured_answers

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class PreferenceSource:
    """What rewards a round's answers, makes pairs of them, and measures held-out answers; ``judge`` knows what failed, ``told`` is for the
    run's summary."""

    reward: Rewarder
    pairing: Pairing
    evaluate: Rewarder
    judge: RunRewards | PairByJudge
    rewards: tuple[Reward, ...] = ()
    composer: Composer | None = None
    told: Callable[[], dict[str, Any]] = field(default=dict)


def by_rewards(
    online: OnlineConfig,
    recipe: PreferRecipe,
    policy: Model,
    renderer: Renderer,
    sampler: Sampler,
    few: Prompts,
    params: SamplingParams,
    folder: Path,
) -> PreferenceSource:
    """The answer with the higher reward is the better one. ``few`` prompts give the scale of a reward model that has none stored."""
    rewards = rewards_of(online.rewards, recipe, policy, renderer, fit_scores(sampler, few, params, online.samples, renderer), asks=True)
    composer = Composer(online.composition, {r.name: r.weight for r in rewards})
    askers = askers_of(online.rewards, folder)
    judge = RunRewards(rewards, online.on_reward_failure, composer, askers if askers.each else None)
    pairing = PairByReward(online.pairs, online.least_gap)
    return PreferenceSource(judge, pairing, judge.evaluate, judge, rewards, composer, askers.summary)


def by_judge(
    online: OnlineConfig, config: CompareConfig, sampler: Sampler, measured: Mapping[str, Prompts], params: SamplingParams
) -> PreferenceSource:
    """A user's function compares answers with one another in training, and held-out ones with those of the starting weights, which are
    drawn now. Raises UserError for a function that is not right."""
    on_failure = config.on_failure or online.on_reward_failure
    source = comparing_source(config)
    judge, examiner = PairJudge(source, config, on_failure), PairJudge(source, config, on_failure)
    pairing = PairByJudge(judge, online.pairs, online.least_gap)
    starts: dict[str, list[str | None]] = {}
    for prompts in measured.values():
        for group in measured_answers(sampler, prompts, params, online.eval_sampling):
            starts[group.prompt.prompt_id] = [r.text if ok else None for r, ok in zip(group.rollouts, group.valid_G.tolist(), strict=True)]
    if failed := sum(text is None for texts in starts.values() for text in texts):
        log.warning(
            "%d held-out answers of the starting weights failed: there is nothing to compare the policy's with in their places", failed
        )
    return PreferenceSource(
        lambda groups: groups, pairing, against(examiner, starts), pairing, told=lambda: {"judge": {**judge.total, "name": config.name}}
    )


def against(judge: PairJudge, starts: Mapping[str, Sequence[str | None]]) -> Rewarder:
    """Rewards of answers: how probably each is better than the one that stands in its place in ``starts``, by prompt. Where none stands
    there (None) an answer has no reward: a win over nothing is none."""

    def rewarded(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        places: list[list[int]] = []
        duels: list[Duel] = []
        for group in groups:
            there = [(i, start) for i, start in enumerate(starts[group.prompt.prompt_id]) if start is not None and bool(group.valid_G[i])]
            duels += [Duel(group.prompt, group.rollouts[i].text, start) for i, start in there]
            places.append([i for i, _ in there])
        said = iter(judge.probabilities(duels))
        result: list[Group] = []
        for group, of_group in zip(groups, places, strict=True):
            scores_G = torch.full_like(group.rewards_G, math.nan)
            for i in of_group:
                scores_G[i] = next(said)
            valid_G = group.valid_G & ~scores_G.isnan()
            result.append(
                replace(group, rewards_G=torch.where(valid_G, scores_G, 0.0), parts={judge.config.name: scores_G}, valid_G=valid_G)
            )
        return tuple(result)

    return rewarded
