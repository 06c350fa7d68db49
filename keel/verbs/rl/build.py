"""The parts of an RL run: everything between the recipe and the trainer, built and ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from keel.core.errors import ConfigError
from keel.learner.local import LocalLearner
from keel.loops.offline import total_steps
from keel.loops.online import Actors, OnlineTrainer
from keel.methods import Algorithm, resolve
from keel.models.loading import Loaded
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.rewards import Reward
from keel.rewards.composition.run_rewards import RunRewards
from keel.rollout.engines import make_sampler
from keel.types import Sampler, SamplingParams
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.reference import Reference, actors_of, reference_of
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled import Prompts, fit_scores, longest_answered
from keel.verbs.shared.sampled_eval import evaluators_of
from keel.verbs.shared.session import Session, load, pin_weights, record, record_sampling
from keel.verbs.shared.units import Splits


@dataclass(frozen=True, slots=True)
class RLParts:
    """Who and what takes part in a run."""

    algorithm: Algorithm
    loaded: Loaded
    renderer: Renderer
    params: SamplingParams
    prompts: Mapping[str, Prompts]  # by side: train, held_out, test
    policy: LocalLearner
    sampler: Sampler
    reference: Reference | None
    critic: LocalLearner | None
    rewards: tuple[Reward, ...]
    composer: Composer
    run_rewards: RunRewards

    @property
    def actors(self) -> Actors:
        """Those that the loop knows."""
        return actors_of(self.policy, self.sampler, self.run_rewards, self.reference, self.critic)


def build(session: Session, recipe: RLRecipe, splits: Splits, account: Account) -> RLParts:
    """Load the models, encode the prompts, make the sampler and the rewards. What is left out of the data goes into ``account``; what a
    resumed run must find as it was is pinned in the session's run."""
    algorithm = resolve(recipe.algorithm, recipe.samples)
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    params = recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    prompts = {
        name: encode(side.prompts(), renderer, account, name, params.max_tokens) if (side := splits.sides.get(name)) is not None else {}
        for name in ("train", "held_out", "test")
    }
    updates = total_steps(recipe.loop, len(prompts["train"])) * algorithm.epochs * algorithm.minibatches
    policy = LocalLearner(loaded.model, recipe.optim, recipe.batch, updates, recipe.seed, params.temperature or 1.0)
    sampler = make_sampler(loaded, renderer.decode, recipe.sampler, longest_answered(prompts.values(), params))
    record_sampling(session, sampler)
    kl = algorithm.kl
    teacher, _ = other_model(session, recipe, ("teacher", recipe.teacher), renderer, loaded.model.media)
    whole = kl is not None and kl.divergence is not None
    _same_vocabulary(recipe, params, loaded.model, teacher, whole)
    reference = reference_of(policy, kl.reference, teacher, whole=whole) if kl is not None else None
    first = dict(list(prompts["train"].items())[: recipe.loop.batch_size])
    rewards = rewards_of(recipe.rewards, recipe, loaded.model, renderer, fit_scores(sampler, first, params, recipe.samples, renderer))
    composer = Composer(recipe.composition, {r.name: r.weight for r in rewards})
    run_rewards = RunRewards(rewards, recipe.on_reward_failure, composer if rewards else None)
    critic = _critic(session, recipe, algorithm, updates, loaded.model.media)
    return RLParts(algorithm, loaded, renderer, params, prompts, policy, sampler, reference, critic, rewards, composer, run_rewards)


def trainer_of(session: Session, recipe: RLRecipe, parts: RLParts) -> OnlineTrainer:
    """The loop over these parts, with what measures the policy on held-out and test prompts."""
    measuring = replace(parts.actors, reward=parts.run_rewards.evaluate)
    algorithm, sides = parts.algorithm, {"eval": parts.prompts["held_out"], "test": parts.prompts["test"]}
    evaluators = evaluators_of(
        sides, measuring, parts.params, recipe.eval_sampling, parts.renderer, session.run, recipe.loop.probes, algorithm.taught
    )
    trainer = OnlineTrainer(
        parts.actors, algorithm, parts.prompts["train"], parts.params, recipe.samples, recipe.loop, recipe.seed, evaluators
    )
    trainer.exploration, trainer.composer = recipe.exploration, parts.composer if parts.rewards else None
    return trainer


def _same_vocabulary(recipe: RLRecipe, params: SamplingParams, policy: Model, teacher: Model | None, whole: bool) -> None:
    """Models of one tokenizer may have heads of different sizes; what was cut while sampling is told apart by its place in the head. Whole
    distributions are compared over the policy's tokens: the teacher's head must have them all."""
    if teacher is None:
        return
    if whole and len(teacher.head_weight_VH) < len(policy.head_weight_VH):
        raise ConfigError(
            f"teacher {recipe.teacher} has {len(teacher.head_weight_VH)} tokens in its head, the policy {len(policy.head_weight_VH)}: it "
            "says nothing of the others, and whole distributions are compared",
            "set algorithm.name=distill, which looks at the sampled tokens alone",
        )
    if params.cut and len(teacher.head_weight_VH) != len(policy.head_weight_VH):
        raise ConfigError(
            f"teacher {recipe.teacher} has {len(teacher.head_weight_VH)} tokens in its head, the policy {len(policy.head_weight_VH)}: what "
            "sampling cuts off cannot be told apart for both",
            "set sampling.top_p=1, top_k=0 and min_tokens=0",
        )


def _critic(session: Session, recipe: RLRecipe, algorithm: Algorithm, updates: int, media: MediaStore) -> LocalLearner | None:
    """A model of its own with a value head; it starts from ``critic_model``, or from the policy's starting weights. ``media`` are the
    policy's images."""
    if not algorithm.needs_critic:
        return None
    loaded, _ = load(recipe, frozenset({"value"}), recipe.lora, recipe.critic_model or recipe.model)
    pin_weights(session, loaded.model, "the critic's weights")
    loaded.model.media = media
    return LocalLearner(loaded.model, recipe.critic_optim, recipe.batch, updates, recipe.seed)
