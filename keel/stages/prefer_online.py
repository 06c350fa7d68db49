"""`keel prefer` with `online`: sample, score, pair, and learn from the pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.advantages.credit import CreditRule
from keel.algorithms.checks import given
from keel.algorithms.config import ReferenceConfig
from keel.algorithms.parts import Algorithm, ReferenceRule
from keel.algorithms.preference import preference_objective
from keel.errors import DivergedError
from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.loops.offline import total_steps
from keel.loops.online import Actors, BranchTensors
from keel.loops.online_preference import OnlinePreferenceTrainer, PairPlan, trainable
from keel.loops.reference import MovingReference
from keel.models.loading import Loaded
from keel.objectives.mixture import DirectObjective
from keel.render.renderer import Renderer
from keel.rewards.composer import Composer
from keel.rewards.judge import Judge
from keel.rollout.local import LocalSampler
from keel.selftest import check_reference, check_sampling, check_training
from keel.stages.account import Account
from keel.stages.answers import Logprobs, referred
from keel.stages.online_config import OnlineConfig
from keel.stages.preferences import encode
from keel.stages.recipes import PreferRecipe
from keel.stages.rewards import rewards_of
from keel.stages.rl import Prompts, check_rewards, explained, fit_scores, longest_batch, refused_answers
from keel.stages.rl_eval import evaluators_of
from keel.stages.session import Session, load, open_session, record, save_final, train
from keel.stages.units import datasets
from keel.types import Edge, PairTarget, SamplingParams, Unit
from keel.watch.config import EarlyStopConfig

_LOOP = Algorithm("online preferences", CreditRule("leave_one_out"))  # what the online loop asks: no critic, no refilling, no price of a KL


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
        trainer = _trainer(session, recipe, online, loaded, renderer, sides, params)
        rewards = trainer.judge.rewards
        _self_test(session, recipe, trainer)
        try:
            result = train(session, trainer, recipe, EarlyStopConfig(metric="eval/reward", mode="max"))
        except DivergedError as error:
            raise explained(error, trainer.judge) from None
        if not result.interrupted and not trainer.actors.policy.state()[1]["step"]:
            raise explained(DivergedError("nothing was trained: no round had a preference to learn from"), trainer.judge)
        if not result.interrupted:
            save_final(session, loaded)
        summary = {"objective": recipe.objective.name, "prompts": len(sides["train"]), "samples": online.samples, "data": account.summary()}
        composed = {"composition": trainer.composer.summary()} if trainer.composer is not None else {}
        return session.finish(summary | refused_answers(rewards) | composed, result)


def _trainer(
    session: Session,
    recipe: PreferRecipe,
    online: OnlineConfig,
    loaded: Loaded,
    renderer: Renderer,
    sides: Mapping[str, Prompts],
    params: SamplingParams,
) -> OnlinePreferenceTrainer:
    """Policy, sampler, reward, reference and the loop that joins them."""
    objective, prompts = preference_objective(recipe.objective), sides["train"]
    updates = total_steps(recipe.loop, len(prompts)) * online.epochs * online.minibatches
    policy = LocalLearner(loaded.model, recipe.optim, recipe.batch, updates, recipe.seed, params.temperature)
    sampler = LocalSampler(loaded.model, renderer.decode, online.sampler)
    few = dict(list(prompts.items())[: recipe.loop.batch_size])
    rewards = rewards_of(online.rewards, recipe, loaded.model, renderer, fit_scores(sampler, few, params, online.samples, renderer))
    composer = Composer(online.composition, {r.name: r.weight for r in rewards})
    judge = Judge(rewards, online.on_reward_failure, composer)
    logprobs, moving = reference_of(policy, objective, online.reference)
    actors = Actors(policy, sampler, judge, logprobs, None, moving)
    measuring, measured = replace(actors, reward=judge.evaluate), {"eval": sides["held_out"], "test": sides["test"]}
    evaluators = evaluators_of(measured, measuring, params, online.eval_sampling, renderer, session.run, recipe.loop.probes)
    trainer = OnlinePreferenceTrainer(actors, _LOOP, prompts, params, online.samples, recipe.loop, recipe.seed, evaluators)
    trainer.objective, trainer.judge, trainer.composer = objective, judge, composer
    trainer.pairs = PairPlan(online.pairs, online.least_gap, online.epochs, online.minibatches)
    trainer.refer = lambda units: referred(objective, units, recipe.seed, logprobs or policy.logprobs)
    return trainer


def reference_of(
    policy: LocalLearner, objective: DirectObjective, config: ReferenceConfig
) -> tuple[Logprobs | None, MovingReference | None]:
    """Log-probabilities of the reference, where the loss has one: adapters off, or a frozen copy, which also compares whole distributions
    where the loss does. What moves it is the second."""
    whole, model = "ref_kl" in objective.needs, policy.model
    if not (objective.needs_reference or whole):
        return None, None
    if config.kind in (None, "fixed") and model.peft_model is not None:

        def adapter_off(units: Sequence[Unit]) -> BranchTensors:
            with model.as_reference():
                return policy.logprobs(units)

        return adapter_off, None
    twin = model.frozen_copy()
    policy.reference = twin if whole else None
    rule = None
    if config.kind in ("ema", "refresh"):
        rule = replace(ReferenceRule(config.kind), **given(config, "decay", "every"))
    moving = MovingReference(twin, model, rule) if rule is not None else None
    return LocalInference(twin, policy.batch, policy.temperature).logprobs, moving


def _self_test(session: Session, recipe: PreferRecipe, trainer: OnlinePreferenceTrainer) -> None:
    """The checks of the policy on pairs of its own answers and on the largest batch; the reward models read what they score."""
    skip, actors, params = recipe.settings.skip_self_test, trainer.actors, trainer.params
    prompts = {name: (prompt, trainer.encoded[name]) for name, prompt in trainer.prompts.items()}
    sampled = check_sampling(actors.policy, actors.sampler, list(prompts.values()), params, session.bus, skip)
    pairs = tuple(replace(u, target=PairTarget((Edge(0, 1, margin=1.0),))) for u in sampled if len(u.branches) == 2)
    ready = trainer.refer(pairs) if trainable(pairs, trainer.objective) else ()
    if ready:
        longest = longest_batch(ready, prompts, recipe.loop.batch_size, 2, params.max_tokens)
        objective = trainer.objective
        check_training(actors.policy, objective, ready, session.bus, skip, longest)
        if objective.needs_reference:
            check_reference(actors.policy, ready, session.bus, skip)
    check_rewards(trainer.judge.rewards, sampled, session.bus, skip)
