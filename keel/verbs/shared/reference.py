"""The reference of a policy that samples while it learns: the starting weights, another model, or weights that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keel.learner.inference import LocalInference
from keel.learner.local import LocalLearner
from keel.learner.moving import MovingReference
from keel.loops.gathering import Rewarder
from keel.loops.online import Actors
from keel.methods.rl_parts import ReferenceRule
from keel.models.model import Model
from keel.types import BranchTensors, Moving, Sampler, Unit
from keel.verbs.shared.learners import AnyLearner


@dataclass(frozen=True, slots=True)
class Reference:
    """Its log-probabilities, and what moves it, if something does."""

    logprobs: Callable[[Sequence[Unit]], BranchTensors]
    moving: Moving | None = None


def reference_of(policy: AnyLearner, rule: ReferenceRule | None, other: Model | None = None, *, whole: bool = False) -> Reference:
    """Adapters off where that is the reference; else a frozen copy of the policy, or ``other``, moved by ``rule``. With ``whole`` the
    policy's losses compare whole distributions with it."""
    if not isinstance(policy, LocalLearner):
        held = policy.refer(other, rule, whole=whole)
        return Reference(held.logprobs, held if rule is not None else None)
    model = policy.model
    if other is None and rule is None and model.peft_model is not None:

        def adapters_off(units: Sequence[Unit]) -> BranchTensors:
            with model.as_reference():
                return policy.logprobs(units)

        return Reference(adapters_off)
    twin = other or model.frozen_copy()
    policy.reference = twin if whole else None
    moving = MovingReference(twin, model, rule) if rule is not None else None
    return Reference(LocalInference(twin, policy.batch, policy.temperature).logprobs, moving)


def actors_of(
    policy: AnyLearner, sampler: Sampler, reward: Rewarder, reference: Reference | None, critic: AnyLearner | None = None
) -> Actors:
    """Who takes part in a loop that samples."""
    if reference is None:
        return Actors(policy, sampler, reward, None, critic)
    return Actors(policy, sampler, reward, reference.logprobs, critic, reference.moving)
