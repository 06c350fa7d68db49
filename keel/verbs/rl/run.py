"""`keel rl`: sample, reward, improve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from keel.core.errors import DivergedError
from keel.core.events import EventBus
from keel.loops.online import with_signal
from keel.selftest import check_reference, check_sampling, check_training
from keel.types import Unit
from keel.verbs.rl.build import RLParts, build, trainer_of
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.shared.account import Account
from keel.verbs.shared.sampled import answered, check_rewards, explained, longest_batch, refused_answers
from keel.verbs.shared.session import Session, open_session, save_final, train
from keel.verbs.shared.units import datasets
from keel.watch.config import EarlyStopConfig


def run_rl(recipe: RLRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Build the parts, prove them, train, save: leaves ``final/`` and returns the summary."""
    splits = datasets(recipe)
    with open_session("rl", recipe, path, splits.fingerprints, parent) as session:
        if (done := session.finished()) is not None:
            return done
        account = Account(path, **splits.sides)
        parts = build(session, recipe, splits, account)
        self_test(recipe, parts, session.bus)
        trainer = trainer_of(session, recipe, parts)
        try:
            result = train(session, trainer, recipe, _best(recipe))
        except DivergedError as error:
            raise explained(error, parts.run_rewards) from None
        if not result.interrupted:
            if not parts.policy.updates:
                raise explained(DivergedError("nothing was trained: no step had a sample to learn from"), parts.run_rewards)
            _save(session, parts)
        prompts = len(parts.prompts["train"])
        summary = {"algorithm": parts.algorithm.name, "prompts": prompts, "samples": recipe.samples, "data": account.summary()}
        return session.finish(summary | refused_answers(parts.rewards) | {"composition": parts.composer.summary()}, result)


def _best(recipe: RLRecipe) -> EarlyStopConfig:
    """What makes an evaluation the best: its reward, or where none counts the distance to the teacher."""
    if recipe.teacher and not any(r.weight for r in recipe.rewards):
        return EarlyStopConfig(metric="eval/teacher/kl", mode="min")
    return EarlyStopConfig(metric="eval/reward", mode="max")


def _save(session: Session, parts: RLParts) -> None:
    units = answered(parts.sampler, parts.prompts["held_out"] or parts.prompts["train"], parts.params)
    save_final(session, parts.loaded, parts.policy, units)
    if parts.critic is not None:
        parts.critic.save(session.run.path / "critic", parts.loaded.tokenizer, parts.loaded.processor)


def self_test(recipe: RLRecipe, parts: RLParts, bus: EventBus) -> None:
    """The checks of policy and critic on real rollouts of the starting policy and on the largest batch; the reward models read what they
    score."""
    skip, algorithm, prompts = recipe.settings.skip_self_test, parts.algorithm, parts.prompts["train"]
    units = check_sampling(parts.policy, parts.sampler, list(prompts.values()), parts.params, bus, skip)
    ready = [_ready(u) for u in units]
    if parts.reference is not None:
        ready = list(with_signal(ready, "ref_logprobs", parts.reference.logprobs(ready)))
        if not algorithm.taught:  # a teacher is not where training starts
            check_reference(parts.policy, ready, bus, skip)
    longest = longest_batch(ready, prompts, -(-recipe.loop.batch_size // algorithm.minibatches), recipe.samples, parts.params.max_tokens)
    check_training(parts.policy, algorithm.policy_objective(), ready, bus, skip, longest)
    if parts.critic is not None:
        check_training(parts.critic, algorithm.value_objective(), ready, bus, skip, longest)
    check_rewards(parts.rewards, units, bus, skip)


def _ready(unit: Unit) -> Unit:
    """A sampled unit with advantages that make a gradient and a loss that is not 0: 1 for the first branch, -1/2 for the others; the same
    are the critic's returns, where it had expected 0."""
    advantages = tuple(b.trained_T.float() * (1.0 if i == 0 else -0.5) for i, b in enumerate(unit.branches))
    signals = {"advantages": advantages, "returns": advantages, "values": tuple(torch.zeros_like(a_T) for a_T in advantages)}
    for name, tensors in signals.items():
        (unit,) = with_signal([unit], name, [tensors])
    return unit
