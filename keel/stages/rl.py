"""`keel rl`: sample, reward, improve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.algorithms import Algorithm, resolve, rollout_units
from keel.errors import DivergedError
from keel.events import EventBus
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.offline import total_steps
from keel.loops.online import Actors, BranchTensors, OnlineTrainer, sample_groups, with_signal
from keel.loops.pairing import ByJudge
from keel.loops.reference import MovingReference
from keel.models.media import MediaStore
from keel.render.renderer import Renderer
from keel.rewards.compose import Reward
from keel.rewards.composer import Composer
from keel.rewards.ensemble import EnsembleSource
from keel.rewards.judge import Judge
from keel.rewards.model import ModelSource, Scorer, units_of
from keel.rollout.engines import make_sampler
from keel.selftest import CheckName, check_reference, check_reward_reads, check_sampling, check_training
from keel.stages.account import Account
from keel.stages.preferences import encode
from keel.stages.recipes import RLRecipe
from keel.stages.reread import UNITS
from keel.stages.rewards import rewards_of
from keel.stages.rl_eval import EVAL_SEED, evaluators_of
from keel.stages.session import Session, load, open_session, pin_weights, record, record_sampling, save_final, train
from keel.stages.units import datasets
from keel.types import Branch, Encoded, Prompt, Sampler, SampleRequest, SamplingParams, Unit
from keel.watch.config import EarlyStopConfig

Prompts = Mapping[str, tuple[Prompt, Encoded]]


def run_rl(recipe: RLRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Reinforcement learning from rewards; leaves ``final/`` and returns the summary."""
    algorithm = resolve(recipe.algorithm, recipe.samples)
    splits = datasets(recipe)
    with open_session("rl", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, lora=recipe.lora)
        record(session, loaded, renderer)
        params = recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
        account = Account(path, **splits.sides)
        prompts, held_out, test = (
            encode(side.prompts(), renderer, account, name, params.max_tokens) if (side := splits.sides.get(name)) is not None else {}
            for name in ("train", "held_out", "test")
        )
        updates = total_steps(recipe.loop, len(prompts)) * algorithm.epochs * algorithm.minibatches
        policy = LocalLearner(loaded.model, recipe.optim, recipe.batch, updates, recipe.seed, params.temperature or 1.0)
        sampler = make_sampler(loaded, renderer.decode, recipe.sampler, longest_answered((prompts, held_out, test), params))
        record_sampling(session, sampler)
        reference, moving = _reference(policy, algorithm)
        fit = fit_scores(sampler, dict(list(prompts.items())[: recipe.loop.batch_size]), params, recipe.samples, renderer)
        rewards = rewards_of(recipe.rewards, recipe, loaded.model, renderer, fit)
        composer = Composer(recipe.composition, {r.name: r.weight for r in rewards})
        judge = Judge(rewards, recipe.on_reward_failure, composer)
        critic = _critic(session, recipe, algorithm, updates, loaded.model.media)
        actors = Actors(policy, sampler, judge, reference, critic, moving)
        _self_test(recipe, algorithm, actors, prompts, params, session.bus, rewards)
        measuring = replace(actors, reward=judge.evaluate)
        evaluators = evaluators_of(
            {"eval": held_out, "test": test}, measuring, params, recipe.eval_sampling, renderer, session.run, recipe.loop.probes
        )
        trainer = OnlineTrainer(actors, algorithm, prompts, params, recipe.samples, recipe.loop, recipe.seed, evaluators)
        trainer.exploration, trainer.composer = recipe.exploration, composer
        try:
            result = train(session, trainer, recipe, EarlyStopConfig(metric="eval/reward", mode="max"))
        except DivergedError as error:
            raise explained(error, judge) from None
        if not result.interrupted and not policy.state()[1]["step"]:
            raise explained(DivergedError("nothing was trained: no step had a sample to learn from"), judge)
        if not result.interrupted:
            save_final(session, loaded, policy, answered(sampler, held_out or prompts, params))
            if actors.critic is not None:
                actors.critic.model.save(path / "critic", loaded.tokenizer, loaded.processor)
        summary = {"algorithm": algorithm.name, "prompts": len(prompts), "samples": recipe.samples, "data": account.summary()}
        return session.finish(summary | refused_answers(rewards) | {"composition": composer.summary()}, result)


def refused_answers(rewards: Sequence[Reward]) -> dict[str, Any]:
    """How many answers of this process got no reward because an ensemble's members disagreed, by reward; {} where nothing refuses."""
    sources = [r.source for r in rewards if isinstance(r.source, EnsembleSource) and r.source.config.refuse_above is not None]
    return {"not_rewarded": {s.name: {"refused": s.refused, "scored": s.scored} for s in sources}} if sources else {}


def _reference(
    policy: LocalLearner, algorithm: Algorithm
) -> tuple[Callable[[Sequence[Unit]], BranchTensors] | None, MovingReference | None]:
    """Log-probabilities under the weights that training starts from: adapters off, or a frozen copy. The latter also where the reference
    follows the policy; what moves it is the second."""
    if algorithm.kl is None:
        return None, None
    model, rule = policy.model, algorithm.kl.reference
    if model.peft_model is None or rule is not None:
        twin = model.frozen_copy()
        moving = MovingReference(twin, model, rule) if rule is not None else None
        return LocalInference(twin, policy.batch, policy.temperature).logprobs, moving

    def adapter_off(units: Sequence[Unit]) -> list[tuple[Tensor, ...]]:
        with model.as_reference():
            return policy.logprobs(units)

    return adapter_off, None


def _critic(session: Session, recipe: RLRecipe, algorithm: Algorithm, updates: int, media: MediaStore) -> LocalLearner | None:
    """A model of its own with a value head; it starts from ``critic_model``, or from the policy's starting weights. ``media`` are the
    policy's images."""
    if not algorithm.needs_critic:
        return None
    loaded, _ = load(recipe, frozenset({"value"}), recipe.lora, recipe.critic_model or recipe.model)
    pin_weights(session, loaded.model, "the critic's weights")
    loaded.model.media = media
    return LocalLearner(loaded.model, recipe.critic_optim, recipe.batch, updates, recipe.seed)


def explained(error: DivergedError, judge: Judge | ByJudge) -> DivergedError:
    """Where rewards failed to the end, the first failure's text is what helps."""
    if not judge.all_failed:
        return error
    return DivergedError(f"{error.message}; the first failure: {judge.failure}", "mend the reward and start again in another run_dir")


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


def _self_test(
    recipe: RLRecipe,
    algorithm: Algorithm,
    actors: Actors,
    prompts: Prompts,
    params: SamplingParams,
    bus: EventBus,
    rewards: tuple[Reward, ...],
) -> None:
    """The checks of policy and critic on real rollouts of the starting policy and on the largest batch; the reward models read what they
    score."""
    skip = recipe.settings.skip_self_test
    units = check_sampling(actors.policy, actors.sampler, list(prompts.values()), params, bus, skip)
    ready = [_ready(u) for u in units]
    if actors.reference_logprobs is not None:
        ready = list(with_signal(ready, "ref_logprobs", actors.reference_logprobs(ready)))
        check_reference(actors.policy, ready, bus, skip)
    longest = longest_batch(ready, prompts, -(-recipe.loop.batch_size // algorithm.minibatches), recipe.samples, params.max_tokens)
    check_training(actors.policy, algorithm.policy_objective(), ready, bus, skip, longest)
    if actors.critic is not None:
        check_training(actors.critic, algorithm.value_objective(), ready, bus, skip, longest)
    check_rewards(rewards, units, bus, skip)


def check_rewards(rewards: Sequence[Reward], units: Sequence[Unit], bus: EventBus, skip: Sequence[CheckName]) -> None:
    """Every reward model reads what it scores."""
    for reward in rewards:
        if isinstance(reward.source, ModelSource | EnsembleSource):
            check_reward_reads(reward.source.scorer, units, bus, skip)


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


def _ready(unit: Unit) -> Unit:
    """A sampled unit with advantages that make a gradient and a loss that is not 0: 1 for the first branch, -1/2 for the others; the same
    are the critic's returns, where it had expected 0."""
    advantages = tuple(b.trained_T.float() * (1.0 if i == 0 else -0.5) for i, b in enumerate(unit.branches))
    signals = {"advantages": advantages, "returns": advantages, "values": tuple(torch.zeros_like(a_T) for a_T in advantages)}
    for name, tensors in signals.items():
        (unit,) = with_signal([unit], name, [tensors])
    return unit
