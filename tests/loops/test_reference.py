"""A reference that follows the policy."""

from __future__ import annotations

import pytest
import torch

from keel.learner.moving import MovingReference
from keel.methods.rl_parts import ReferenceRule
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.model import Model


def tiny(lora: bool = False) -> Model:
    return load_model("tiny:llama?seed=1", ModelOptions(precision="fp32"), LoraConfig(r=2) if lora else None).model


def shift(model: Model, by: float) -> None:
    with torch.no_grad():
        for _, p in model.trainable():
            p += by


def distance(reference: MovingReference, start: dict[str, torch.Tensor]) -> float:
    moved = {name: (tensor - start[name]) for name, tensor in reference.state().items()}
    return float(torch.cat([m.flatten() for m in moved.values()]).mean())


@pytest.mark.parametrize("lora", [False, True])
def test_a_moving_average_by_hand(lora: bool) -> None:
    """The policy goes 1 away and stays: what is left of the distance is 0.75 and 0.75^2. The copy computes with it."""
    policy = tiny(lora)
    start = {name: p.clone() for name, p in policy.state_tensors().items()}
    twin = policy.frozen_copy()
    reference = MovingReference(twin, policy, ReferenceRule("ema", decay=0.75))
    shift(policy, 1.0)
    assert distance(reference, start) == 0.0
    reference.follow(1)
    assert distance(reference, start) == pytest.approx(0.25, abs=1e-6)
    reference.follow(2)
    assert distance(reference, start) == pytest.approx(1 - 0.75**2, abs=1e-6)
    name = next(iter(start))
    own = twin.named_parameters()[name]
    assert torch.equal(own, reference.state()[name])
    assert not own.requires_grad


def test_a_refresh_comes_every_so_many_steps_and_survives_a_resume() -> None:
    policy = tiny()
    start = {name: p.clone() for name, p in policy.state_tensors().items()}
    reference = MovingReference(policy.frozen_copy(), policy, ReferenceRule("refresh", every=3))
    seen = []
    for step in range(1, 8):
        shift(policy, 1.0)
        reference.follow(step)
        seen.append(round(distance(reference, start)))
    assert seen == [0, 0, 3, 3, 3, 6, 6]
    twin = policy.frozen_copy()
    again = MovingReference(twin, policy, ReferenceRule("refresh", every=3))
    again.load_state({name: t.clone() for name, t in reference.state().items()})
    name = next(iter(start))
    assert torch.equal(twin.named_parameters()[name], reference.state()[name])
