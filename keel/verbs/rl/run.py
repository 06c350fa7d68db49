"""`keel rl`: sample, reward, improve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import DivergedError
from keel.core.events import EventBus
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.offline import total_steps
from keel.loops.online import Actors, BranchTensors, OnlineTrainer, with_signal
from keel.loops.reference import MovingReference
from keel.methods import Algorithm, resolve
from keel.models.media import MediaStore
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.judge import Judge
from keel.rewards.composition.rewards import Reward
from keel.rollout.engines import make_sampler
from keel.selftest import check_reference, check_sampling, check_training
from keel.types import SamplingParams, Unit
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled import (
    Prompts,
    answered,
    check_rewards,
    explained,
    fit_scores,
    longest_answered,
    longest_batch,
    refused_answers,
)
from keel.verbs.shared.sampled_eval import evaluators_of
from keel.verbs.shared.session import Session, load, open_session, pin_weights, record, record_sampling, save_final, train
from keel.verbs.shared.units import datasets
from keel.watch.config import EarlyStopConfig


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


def _ready(unit: Unit) -> Unit:
    """A sampled unit with advantages that make a gradient and a loss that is not 0: 1 for the first branch, -1/2 for the others; the same
    are the critic's returns, where it had expected 0."""
    advantages = tuple(b.trained_T.float() * (1.0 if i == 0 else -0.5) for i, b in enumerate(unit.branches))
    signals = {"advantages": advantages, "returns": advantages, "values": tuple(torch.zeros_like(a_T) for a_T in advantages)}
    for name, tensors in signals.items():
        (unit,) = with_signal([unit], name, [tensors])
    return unit
