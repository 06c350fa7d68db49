"""`keel prefer` with `online`: sample, score, pair, and learn from the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DivergedError
from keel.learner.local import LocalLearner
from keel.loops.offline import total_steps
from keel.loops.online_preference import OnlinePreferenceTrainer, Plan, trainable
from keel.methods.objectives.mixture import DirectObjective
from keel.methods.preference import preference_objective
from keel.methods.rl_checks import given
from keel.methods.rl_config import ReferenceConfig
from keel.methods.rl_parts import ReferenceRule
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.rollout.engines import make_sampler
from keel.selftest import check_reference, check_sampling, check_training
from keel.types import Edge, PairTarget, Sampler, Unit
from keel.verbs.prefer.answers import referred
from keel.verbs.prefer.online_config import OnlineConfig
from keel.verbs.prefer.preference_source import PreferenceSource, by_judge, by_rewards
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.other_model import other_model
from keel.verbs.shared.prompts import encode
from keel.verbs.shared.reference import Reference, actors_of, reference_of
from keel.verbs.shared.sampled import Prompts, answered, check_rewards, explained, longest_answered, longest_batch
from keel.verbs.shared.sampled_eval import evaluators_of
from keel.verbs.shared.session import Session, load, open_session, record, record_sampling, save_final, train
from keel.verbs.shared.units import datasets
from keel.watch.config import EarlyStopConfig

EVERY = 10  # rounds between refreshes unless the recipe says


def run_online(recipe: PreferRecipe, online: OnlineConfig, path: Path, parent: str = "") -> dict[str, Any]:
    """Preference optimisation on the policy's own answers; leaves ``final/`` and returns the summary."""
    splits = datasets(recipe)
    with open_session("prefer", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        loaded, renderer = load(recipe, lora=recipe.lora)
        record(session, loaded, renderer)
        account = Account(path, **splits.sides)
        params = online.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
        sides = {
            name: encode(side.prompts(), renderer, account, name, params.max_tokens) if (side := splits.sides.get(name)) is not None else {}
            for name in ("train", "held_out", "test")
        }
        sampler = make_sampler(loaded, renderer.decode, online.sampler, longest_answered(sides.values(), params))
        record_sampling(session, sampler)
        few = dict(list(sides["train"].items())[: recipe.loop.batch_size])
        if online.judge is not None:
            better = by_judge(online, online.judge, sampler, {k: sides[k] for k in ("held_out", "test")}, params)
        else:
            better = by_rewards(online, recipe, loaded.model, renderer, sampler, few, params)
        policy, trainer = _trainer(session, recipe, loaded.model, sampler, better, sides, renderer)
        _self_test(session, recipe, trainer, better)
        try:
            result = train(session, trainer, recipe, EarlyStopConfig(metric="eval/reward", mode="max"))
        except DivergedError as error:
            raise explained(error, better.why) from None
        if not result.interrupted and not policy.updates:
            raise explained(DivergedError("nothing was trained: no round had a preference to learn from"), better.why)
        if not result.interrupted:
            save_final(session, loaded, policy, answered(sampler, sides["held_out"] or sides["train"], params))
        summary = {"objective": recipe.objective.name, "prompts": len(sides["train"]), "samples": online.samples, "data": account.summary()}
        return session.finish(summary | better.summary(), result)


def _trainer(
    session: Session,
    recipe: PreferRecipe,
    model: Model,
    sampler: Sampler,
    better: PreferenceSource,
    sides: Mapping[str, Prompts],
    renderer: Renderer,
) -> tuple[LocalLearner, OnlinePreferenceTrainer]:
    """Policy, reference and the loop that joins them with what says which answer is better."""
    online = recipe.online
    assert online is not None, "the recipe has online"
    params = online.sampling.params(renderer.stop_tokens, renderer.banned_tokens)
    objective, prompts = preference_objective(recipe.objective), sides["train"]
    steps = total_steps(recipe.loop, len(prompts))
    _check_refresh(online.reference, steps)
    policy = LocalLearner(model, recipe.optim, recipe.batch, steps * online.epochs * online.minibatches, recipe.seed, params.temperature)
    other, _ = other_model(session, recipe, ("reference_model", recipe.reference_model), renderer, model.media)
    reference = _reference(policy, objective, online.reference, other)
    actors = actors_of(policy, sampler, better.reward, reference)
    measuring, measured = replace(actors, reward=better.evaluate), {"eval": sides["held_out"], "test": sides["test"]}
    evaluators = evaluators_of(measured, measuring, params, online.eval_sampling, renderer, session.run, recipe.loop.probes)

    def refer(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
        return referred(objective, units, recipe.seed, reference.logprobs if reference is not None else policy.logprobs)

    plan = Plan(objective, refer, better.pairing, online.samples, online.epochs, online.minibatches, better.composer)
    return policy, OnlinePreferenceTrainer(actors, plan, prompts, params, recipe.loop, recipe.seed, evaluators)


def _check_refresh(config: ReferenceConfig, rounds: int) -> None:
    """Raise ConfigError for a reference that would be refreshed after the last round at the earliest."""
    every = config.every or EVERY
    if config.kind == "refresh" and every >= rounds:
        raise ConfigError(
            f"online.reference.every is {every} and there are {rounds} rounds: the reference would never be refreshed",
            "lower it, or leave kind=refresh out",
        )


def _reference(policy: LocalLearner, objective: DirectObjective, config: ReferenceConfig, other: Model | None) -> Reference | None:
    """None for a loss that has none. It follows the policy where the recipe says so."""
    whole = "ref_kl" in objective.needs
    if not (objective.needs_reference or whole):
        return None
    rule = None
    if config.kind in ("ema", "refresh"):
        rule = replace(ReferenceRule(config.kind, every=EVERY), **given(config, "decay", "every"))
    return reference_of(policy, rule, other, whole=whole)


def _self_test(session: Session, recipe: PreferRecipe, trainer: OnlinePreferenceTrainer, better: PreferenceSource) -> None:
    """The checks of the policy on pairs of its own answers and on the largest batch; the reward models read what they score."""
    skip, actors, params = recipe.settings.skip_self_test, trainer.actors, trainer.params
    prompts = {name: (prompt, trainer.encoded[name]) for name, prompt in trainer.prompts.items()}
    sampled = check_sampling(actors.policy, actors.sampler, list(prompts.values()), params, session.bus, skip)
    plain = [replace(u, branches=tuple(replace(b, support=None) for b in u.branches)) for u in sampled]
    pairs = tuple(replace(u, target=PairTarget((Edge(0, 1, margin=1.0),))) for u in plain if len(u.branches) == 2)
    objective = trainer.plan.objective
    ready = trainer.plan.refer(pairs) if trainable(pairs, objective) else ()
    if ready:
        longest = longest_batch(ready, prompts, recipe.loop.batch_size, 2, params.max_tokens)
        check_training(actors.policy, objective, ready, session.bus, skip, longest)
        if objective.needs_reference and not recipe.reference_model:
            check_reference(actors.policy, ready, session.bus, skip)
    check_rewards(better.rewards, sampled, session.bus, skip)
