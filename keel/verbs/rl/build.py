"""The parts of an RL run: everything between the recipe and the trainer, built and ready."""

from __future__ import annotations

from dataclasses import replace

from keel.core.errors import ConfigError
from keel.methods import resolve
from keel.models.loading import Loaded
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.run_rewards import RunRewards
from keel.rollout.engines import make_sampler
from keel.types import SamplingParams
from keel.verbs.rl.parts import RLParts
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.prompts import encode_sides
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled import fit_scores, longest_answered
from keel.verbs.shared.sampled_eval import evaluators_of
from keel.verbs.shared.session import Session, load, pin_weights, record, record_sampling
from keel.verbs.shared.units import Splits
from keel.watch.config import EarlyStopConfig


def build(session: Session, recipe: RLRecipe, splits: Splits) -> RLParts:
    """Load the models, encode the prompts, make the sampler and the rewards. What a resumed run must find as it was is pinned in the
    session's run."""
    account = Account(session.run.path, **splits.sides)
    algorithm = resolve(recipe.algorithm, recipe.samples)
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    params = recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    prompts = encode_sides(splits, renderer, account, params.max_tokens)
    sampler = make_sampler(loaded, renderer.decode, recipe.sampler, longest_answered(prompts.values(), params))
    record_sampling(session, sampler)
    teacher, _ = other_model(session, recipe, ("teacher", recipe.teacher), renderer, loaded.model.media)
    _same_vocabulary(recipe, params, loaded.model, teacher)
    first = dict(list(prompts["train"].items())[: recipe.loop.batch_size])
    rewards = rewards_of(recipe.rewards, recipe, loaded.model, renderer, fit_scores(sampler, first, params, recipe.samples, renderer))
    composer = Composer(recipe.composition, {r.name: r.weight for r in rewards})
    judge = RunRewards(rewards, recipe.on_reward_failure, composer if rewards else None)
    parts = RLParts.of(
        loaded,
        algorithm,
        sampler,
        judge,
        prompts,
        params,
        samples=recipe.samples,
        optim=recipe.optim,
        loop=recipe.loop,
        seed=recipe.seed,
        batch=recipe.batch,
        other=teacher,
        critic=_critic(session, recipe, loaded.model.media) if algorithm.needs_critic else None,
        critic_optim=recipe.critic_optim,
    )
    measuring, measured = replace(parts.actors, reward=judge.evaluate), {"eval": prompts["held_out"], "test": prompts["test"]}
    return replace(
        parts,
        rewards=rewards,
        composer=composer,
        exploration=recipe.exploration,
        best=_best(recipe),
        evaluators=evaluators_of(
            measured, measuring, params, recipe.eval_sampling, renderer, session.run, recipe.loop.probes, algorithm.taught
        ),
        summary={"algorithm": algorithm.name, "prompts": len(prompts["train"]), "samples": recipe.samples, "data": account.summary()},
    )


def _best(recipe: RLRecipe) -> EarlyStopConfig:
    """What makes an evaluation the best: its reward, or where none counts the distance to the teacher."""
    if recipe.teacher and not any(r.weight for r in recipe.rewards):
        return EarlyStopConfig(metric="eval/teacher/kl", mode="min")
    return EarlyStopConfig(metric="eval/reward", mode="max")


def _same_vocabulary(recipe: RLRecipe, params: SamplingParams, policy: Model, teacher: Model | None) -> None:
    """Models of one tokenizer may have heads of different sizes; what was cut while sampling is told apart by its place in the head."""
    if teacher is not None and params.cut and len(teacher.head_weight_VH) != len(policy.head_weight_VH):
        raise ConfigError(
            f"teacher {recipe.teacher} has {len(teacher.head_weight_VH)} tokens in its head, the policy {len(policy.head_weight_VH)}: what "
            "sampling cuts off cannot be told apart for both",
            "set sampling.top_p=1, top_k=0 and min_tokens=0",
        )


def _critic(session: Session, recipe: RLRecipe, media: MediaStore) -> Loaded:
    """A model of its own with a value head; it starts from ``critic_model``, or from the policy's starting weights. ``media`` are the
    policy's images."""
    loaded, _ = load(recipe, frozenset({"value"}), recipe.lora, recipe.critic_model or recipe.model)
    pin_weights(session, loaded.model, "the critic's weights")
    loaded.model.media = media
    return loaded
