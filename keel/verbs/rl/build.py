"""The parts of an RL run: everything between the recipe and the trainer, built and ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch

from keel.core.errors import ConfigError
from keel.core.events import EventBus
from keel.learner.config import OptimConfig
from keel.loops.config import ExplorationConfig, GroundingConfig, RobustConfig
from keel.loops.control import check_phases
from keel.loops.gathering import Rewarder
from keel.loops.offline import total_steps
from keel.loops.online import Evaluator, OnlineTrainer, with_signal
from keel.methods import Algorithm, resolve
from keel.methods.credit.robust import GroupWeights
from keel.models.loading import Loaded
from keel.models.looking import looking
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.rewards.composition.composer import Composer
from keel.rewards.composition.rewards import RunRewards
from keel.rollout.engines import make_sampler
from keel.rollout.journal import Journal
from keel.rollout.journaled import journaled
from keel.selftest import CheckName, check_reference, check_sampling, check_training
from keel.types import Sampler, SamplingParams, Unit
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.rl.resolved import resolved_numbers
from keel.verbs.shared.account import Account
from keel.verbs.shared.asking import askers_of
from keel.verbs.shared.continual import remember
from keel.verbs.shared.environment import World, world_of
from keel.verbs.shared.judges import check_seen_by, record_judges
from keel.verbs.shared.keeping import auditor_of, keeper_of, red_team_of
from keel.verbs.shared.learners import learner_of
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.prompts import Prompts, encode_sides
from keel.verbs.shared.recipes import Training
from keel.verbs.shared.reference import Reference, reference_of
from keel.verbs.shared.rewards import rewards_of
from keel.verbs.shared.sampled import fit_scores, longest_answered, longest_batch
from keel.verbs.shared.sampled_eval import evaluators_of
from keel.verbs.shared.sampled_parts import SampledParts
from keel.verbs.shared.session import Session, load, pin_weights, record, record_sampling
from keel.verbs.shared.units import Splits
from keel.watch.config import EarlyStopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RLParts(SampledParts):
    """The parts of a training by RL."""

    NOTHING: ClassVar[str] = "no step had a sample to learn from"

    algorithm: Algorithm
    samples: int
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    lag: int = 0  # steps that the sampler is ahead
    journal: Journal | None = None  # of the rollouts as they arrive
    world: World | None = None  # that the policy talks with
    robust: RobustConfig | None = None  # which groups of prompts count more

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        algorithm: Algorithm,
        sampler: Sampler,
        reward: Rewarder,
        prompts: Mapping[str, Prompts],
        params: SamplingParams,
        samples: int,
        training: Training,
        *,
        reference: Reference | None = None,
        critic: tuple[Loaded, OptimConfig] | None = None,
        other: Model | None = None,
    ) -> Self:
        """With the learners that the algorithm needs. Its reference is ``reference``, or ``other``, or the weights as they are now;
        ``critic`` is a model with a value head, and its optimizer."""
        updates = total_steps(training.loop, len(prompts["train"])) * algorithm.epochs * algorithm.minibatches
        policy = learner_of("policy", loaded.model, training.optim, training, updates, params.temperature or 1.0)
        check_phases(policy, training.loop.phases)
        kl = algorithm.kl
        if kl is not None and reference is None:
            reference = reference_of(policy, kl.reference, other, whole=kl.divergence is not None)
        return cls(
            loaded=loaded,
            algorithm=algorithm,
            policy=policy,
            sampler=sampler,
            reward=reward,
            reference=reference if kl is not None else None,
            critic=learner_of("critic", critic[0].model, critic[1], training, updates, beside=policy) if critic is not None else None,
            prompts=prompts,
            params=params,
            samples=samples,
            training=training,
        )

    def trainer(self) -> OnlineTrainer:
        prompts, loop, seed = self.prompts["train"], self.training.loop, self.training.seed
        actors = self.actors if self.journal is None else replace(self.actors, sampler=journaled(self.sampler, self.journal))
        trainer = OnlineTrainer(actors, self.algorithm, prompts, self.params, self.samples, loop, seed, self.evaluators)
        trainer.keeper, trainer.auditor, trainer.red_team = self.keeper, self.auditor, self.red_team
        trainer.composer, trainer.journal = self.composer if self.rewards else None, self.journal
        trainer.gatherer.feed.lag, trainer.gatherer.exploration = self.lag, self.exploration
        trainer.grounding, trainer.masked = self.grounding, self.twins.get("greyed")
        if self.robust is not None:
            names = [str(prompt.meta[self.robust.by]) for prompt, _ in prompts.values()]
            trainer.robust = GroupWeights.of(self.robust.by, self.robust.step, names)
        trainer.gatherer.longest = self.params.max_tokens if self.world is None else self.world.sampled(self.params)
        return trainer

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """The checks of policy and critic on real rollouts of the starting policy and on the largest batch; the policy looks at images, the
        reward models read what they score."""
        algorithm, prompts = self.algorithm, self.prompts["train"]
        talking = self.world.trial(self.sampler) if self.world is not None else None
        units = check_sampling(self.policy, self.sampler, list(prompts.values()), self.params, bus, skip, talking)
        ready = [ready_unit(u) for u in units]
        if self.reference is not None:
            ready = list(with_signal(ready, "ref_logprobs", self.reference.logprobs(ready)))
            if not algorithm.taught:  # a teacher is not where training starts
                check_reference(self.policy, ready, bus, skip)
        tokens = self.params.max_tokens if self.world is None else self.world.config.max_tokens
        longest = longest_batch(ready, prompts, -(-self.training.loop.batch_size // algorithm.minibatches), self.samples, tokens)
        check_training(self.policy, algorithm.policy_objective(), ready, bus, skip, longest)
        if self.critic is not None:
            check_training(self.critic, algorithm.value_objective(), ready, bus, skip, longest)
        self.check_looks(units, bus, skip)


def build(session: Session, recipe: RLRecipe, splits: Splits) -> RLParts:
    """Load the models, encode the prompts, make the sampler and the rewards. What a resumed run must find as it was is pinned in the
    session's run."""
    account = Account(session.run.path, recipe.settings.max_refused, **splits.sides)
    algorithm = resolve(recipe.algorithm, recipe.samples)
    check_seen_by(recipe.rewards, splits.prompts())
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    session.run.record(algorithm=resolved_numbers(algorithm))
    params = recipe.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    world = world_of(recipe.environment, renderer, recipe.seed, params)
    whole = params if world is None else replace(params, max_tokens=world.config.max_tokens)
    prompts = encode_sides(splits, renderer, account, whole.max_tokens, world.open if world is not None else None)
    sampler = make_sampler(loaded, renderer.decode, recipe.sampler, longest_answered(prompts.values(), whole), recipe.rollouts.in_flight)
    record_sampling(session, sampler)
    sampler = sampler if world is None else world.sampler(sampler)
    teacher, _ = other_model(session, recipe, ("teacher", recipe.teacher), renderer, loaded.model.media)
    _same_vocabulary(recipe, params, loaded.model, teacher, whole=algorithm.kl is not None and algorithm.kl.divergence is not None)
    _needs_images(recipe, algorithm, prompts["train"])
    _needs_groups(recipe, prompts["train"])
    first = dict(list(prompts["train"].items())[: recipe.loop.batch_size])
    fit = fit_scores(sampler, first, params, recipe.samples, renderer)
    rewards = rewards_of(recipe.rewards, recipe, loaded.model, renderer, fit, asks=True)
    rewards = rewards if world is None else (*world.rewards(), *rewards)
    record_judges(session.run, rewards)
    composer = Composer(recipe.composition, {r.name: r.weight for r in rewards})
    askers = askers_of(recipe.rewards, session.run.path)
    judge = RunRewards(rewards, recipe.on_reward_failure, composer if rewards else None, askers if askers.each else None)
    critic = (_critic(session, recipe, loaded.model.media, prompts["train"]), recipe.critic_optim) if algorithm.needs_critic else None
    parts = RLParts.of(loaded, algorithm, sampler, judge, prompts, params, recipe.samples, recipe.training, critic=critic, other=teacher)
    memory = remember(recipe, parts.policy, renderer, splits, account)
    keeper = keeper_of(session, renderer, parts.actors) if recipe.personal is None else None
    measuring, measured = replace(parts.actors, reward=judge.evaluate), {"eval": prompts["held_out"], "test": prompts["test"]}

    def evaluators_for(sides: Mapping[str, Prompts]) -> Mapping[str, Evaluator]:
        asked = params, recipe.eval_sampling, renderer, session.run, recipe.loop.probes, algorithm.taught
        return evaluators_of(sides, measuring, *asked, lambda units: looking(loaded.model, units), keeper)

    return replace(
        parts,
        rewards=rewards,
        composer=composer,
        world=world,
        robust=recipe.robust,
        judge=judge,
        told=lambda: {**askers.summary(), **memory.told()},
        exploration=recipe.exploration,
        grounding=recipe.grounding,
        lag=recipe.rollouts.lag,
        journal=Journal(session.run.path / "journal") if recipe.journal else None,
        best=_best(recipe),
        twins=renderer.twins,
        evaluators=evaluators_for(measured),
        evaluators_for=evaluators_for,
        keeper=keeper,
        auditor=auditor_of(session),
        red_team=red_team_of(session, renderer, judge.evaluate, params.max_tokens),
        summary={"algorithm": algorithm.name, "prompts": len(prompts["train"]), "samples": recipe.samples, "data": account.summary()},
    )


def _best(recipe: RLRecipe) -> EarlyStopConfig:
    """What makes an evaluation the best: its reward, or where none counts the distance to the teacher."""
    own = recipe.environment.weight if recipe.environment is not None else None
    if recipe.teacher and not own and not any(r.weight for r in recipe.rewards):
        return EarlyStopConfig(metric="eval/teacher/kl", mode="min")
    return EarlyStopConfig(metric="eval/reward", mode="max")


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


def _needs_images(recipe: RLRecipe, algorithm: Algorithm, prompts: Prompts) -> None:
    """Raise ConfigError for settings that would do nothing because no prompt shows an image."""
    if any(encoded.media for _, encoded in prompts.values()):
        return
    control = algorithm.kl.control if algorithm.kl is not None else None
    asked = {
        "algorithm.kl.grounded and ungrounded": algorithm.needs_kinds,
        "grounding": bool(recipe.grounding.changed),
        "algorithm.credit.gamma_slope": bool(algorithm.credit.gamma_slope),
        "algorithm.kl.control.target_slope": control is not None and bool(control.target_slope),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise ConfigError(f"{name} would have no effect: no prompt shows an image", "leave it out")


def _needs_groups(recipe: RLRecipe, prompts: Prompts) -> None:
    """Raise ConfigError where a prompt has no group, or all are of one."""
    if recipe.robust is None:
        return
    by = recipe.robust.by
    missing = next((prompt for prompt, _ in prompts.values() if by not in prompt.meta), None)
    if missing is not None:
        raise ConfigError(f"robust.by={by}: the prompt {missing.source_id} has no column '{by}'", "name a column that every row has")
    if len({str(prompt.meta[by]) for prompt, _ in prompts.values()}) < 2:
        raise ConfigError(f"robust.by={by} would have no effect: all prompts are of one group", "leave robust out")


def _critic(session: Session, recipe: RLRecipe, media: MediaStore, prompts: Prompts) -> Loaded:
    """A model of its own with a value head; it starts from ``critic_model``, or from the policy's starting weights. ``media`` are the
    policy's images."""
    if recipe.critic_head == "image_attention" and not any(encoded.media for _, encoded in prompts.values()):
        raise ConfigError("critic_head=image_attention looks at images, and no prompt holds one", "set critic_head=linear")
    loaded, _ = load(recipe, frozenset({"value"}), recipe.lora, recipe.critic_model or recipe.model, value=recipe.critic_head)
    pin_weights(session, loaded.model, "the critic's weights")
    loaded.model.media = media
    return loaded


def ready_unit(unit: Unit) -> Unit:
    """A sampled unit with advantages that make a gradient and a loss that is not 0: 1 for the first branch, -1/2 for the others; the same
    are the critic's returns, where it had expected 0."""
    advantages = tuple(b.trained_T.float() * (1.0 if i == 0 else -0.5) for i, b in enumerate(unit.branches))
    nothing = tuple(torch.zeros_like(a_T) for a_T in advantages)
    signals = {"advantages": advantages, "returns": advantages, "values": nothing, "grounded": nothing}
    for name, tensors in signals.items():
        (unit,) = with_signal([unit], name, [tensors])
    return unit
