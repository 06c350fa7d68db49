"""The parts of `keel prefer` with `online`: sample, score, pair, and learn from the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from keel.core.errors import ConfigError
from keel.core.events import EventBus
from keel.loops.control import check_phases
from keel.loops.offline import total_steps
from keel.loops.online_preference import OnlinePreferenceTrainer, Plan, trainable
from keel.methods.objectives.mixture import DirectObjective
from keel.methods.preference import preference_objective
from keel.methods.rl_checks import given
from keel.methods.rl_config import ReferenceConfig
from keel.methods.rl_parts import ReferenceRule
from keel.models.looking import looking
from keel.models.model import Model
from keel.rollout.engines import make_sampler
from keel.selftest import CheckName, check_reference, check_sampling, check_training
from keel.types import Edge, PairTarget, SamplingParams, Unit
from keel.verbs.prefer.answers import referred
from keel.verbs.prefer.online_config import OnlineConfig
from keel.verbs.prefer.preference_source import by_judge, by_rewards
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.judges import check_seen_by, record_judges
from keel.verbs.shared.keeping import auditor_of, keeper_of, red_team_of
from keel.verbs.shared.learners import AnyLearner, learner_of
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.prompts import encode_sides
from keel.verbs.shared.reference import Reference, actors_of, reference_of
from keel.verbs.shared.sampled import longest_answered, longest_batch
from keel.verbs.shared.sampled_eval import evaluators_of
from keel.verbs.shared.sampled_parts import SampledParts
from keel.verbs.shared.session import Session, load, record, record_sampling
from keel.verbs.shared.units import Splits

EVERY = 10  # rounds between refreshes unless the recipe says


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineParts(SampledParts):
    """The parts of preference optimisation on the policy's own answers."""

    NOTHING: ClassVar[str] = "no round had a preference to learn from"

    plan: Plan
    starts_at_reference: bool

    def trainer(self) -> OnlinePreferenceTrainer:
        """The loop over these parts, one round at a time."""
        loop, seed = self.training.loop, self.training.seed
        trainer = OnlinePreferenceTrainer(self.actors, self.plan, self.prompts["train"], self.params, loop, seed, self.evaluators)
        trainer.keeper, trainer.auditor, trainer.red_team = self.keeper, self.auditor, self.red_team
        return trainer

    def self_test(self, bus: EventBus, skip: Sequence[CheckName] = ()) -> None:
        """The checks of the policy on pairs of its own answers and on the largest batch; the reward models read what they score."""
        policy, prompts, objective = self.policy, self.prompts["train"], self.plan.objective
        sampled = check_sampling(policy, self.sampler, list(prompts.values()), self.params, bus, skip)
        plain = [replace(u, branches=tuple(replace(b, support=None) for b in u.branches)) for u in sampled]
        pairs = tuple(replace(u, target=PairTarget((Edge(0, 1, margin=1.0),))) for u in plain if len(u.branches) == 2)
        ready = self.plan.refer(pairs) if trainable(pairs, objective) else ()
        if ready:
            longest = longest_batch(ready, prompts, self.training.loop.batch_size, 2, self.params.max_tokens)
            check_training(policy, objective, ready, bus, skip, longest)
            if self.starts_at_reference:
                check_reference(policy, ready, bus, skip)
        self.check_looks(sampled, bus, skip)


def build_online(session: Session, recipe: PreferRecipe, online: OnlineConfig, splits: Splits) -> OnlineParts:
    """Load the models, encode the prompts, make the sampler and what says which answer is better."""
    check_seen_by(online.rewards, splits.prompts())
    loaded, renderer = load(recipe, lora=recipe.lora)
    record(session, loaded, renderer)
    account = Account(session.run.path, recipe.settings.max_refused, **splits.sides)
    params = online.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    prompts = encode_sides(splits, renderer, account, params.max_tokens)
    sampler = make_sampler(loaded, renderer.decode, online.sampler, longest_answered(prompts.values(), params))
    record_sampling(session, sampler)
    measured = {"eval": prompts["held_out"], "test": prompts["test"]}
    if online.judge is not None:
        better = by_judge(online, online.judge, sampler, measured, params)
    else:
        few = dict(list(prompts["train"].items())[: recipe.loop.batch_size])
        better = by_rewards(online, recipe, loaded.model, renderer, sampler, few, params, session.run.path)
        record_judges(session.run, better.rewards)
    objective = preference_objective(recipe.objective)
    policy = _policy(recipe, online, loaded.model, len(prompts["train"]), params)
    other, _ = other_model(session, recipe, ("reference_model", recipe.reference_model), renderer, loaded.model.media)
    reference = _reference(policy, objective, online.reference, other)

    def refer(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        return referred(objective, units, recipe.seed, reference.logprobs if reference is not None else policy.logprobs)

    measuring = actors_of(policy, sampler, better.evaluate, reference)
    keeper = keeper_of(session, renderer, measuring)
    red_team = red_team_of(session, renderer, better.evaluate, params.max_tokens)
    if red_team is not None and online.judge is not None:
        raise ConfigError("settings.tracking.red_team scores answers, and online.judge only compares them", "leave it out, or set rewards")
    return OnlineParts(
        loaded=loaded,
        policy=policy,
        sampler=sampler,
        reward=better.reward,
        rewards=better.rewards,
        composer=better.composer,
        judge=better.judge,
        told=better.told,
        reference=reference,
        plan=Plan(objective, refer, better.pairing, online.samples, online.epochs, online.minibatches, better.composer),
        prompts=prompts,
        params=params,
        training=recipe.training,
        evaluators=evaluators_of(
            measured,
            measuring,
            params,
            online.eval_sampling,
            renderer,
            session.run,
            recipe.loop.probes,
            measures=lambda units: looking(loaded.model, units),
            keeper=keeper,
        ),
        keeper=keeper,
        auditor=auditor_of(session),
        red_team=red_team,
        starts_at_reference=objective.needs_reference and other is None,
        twins=renderer.twins,
        summary={
            "objective": recipe.objective.name,
            "prompts": len(prompts["train"]),
            "samples": online.samples,
            "data": account.summary(),
        },
    )


def _policy(recipe: PreferRecipe, online: OnlineConfig, model: Model, n: int, params: SamplingParams) -> AnyLearner:
    """The learner of all updates on ``n`` prompts. Raises ConfigError for a reference that would be refreshed after the last round at the
    earliest."""
    rounds, config = total_steps(recipe.loop, n), online.reference
    every = config.every or EVERY
    if config.kind == "refresh" and every >= rounds:
        raise ConfigError(
            f"online.reference.every is {every} and there are {rounds} rounds: the reference would never be refreshed",
            "lower it, or leave kind=refresh out",
        )
    updates = rounds * online.epochs * online.minibatches
    policy = learner_of("policy", model, recipe.optim, recipe.training, updates, params.temperature)
    check_phases(policy, recipe.loop.phases)
    return policy


def _reference(policy: AnyLearner, objective: DirectObjective, config: ReferenceConfig, other: Model | None) -> Reference | None:
    """None for a loss that has none. It follows the policy where the recipe says so."""
    whole = "ref_kl" in objective.needs
    if not (objective.needs_reference or whole):
        return None
    rule = None
    if config.kind in ("ema", "refresh"):
        rule = replace(ReferenceRule(config.kind, every=EVERY), **given(config, "decay", "every"))
    return reference_of(policy, rule, other, whole=whole)
