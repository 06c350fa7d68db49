"""The study of labels saved on answers: pairs and labels as people gave them, both arms by the same rules."""

from __future__ import annotations

import numpy as np
import pytest

from keel.simulate import gold
from keel.types import Prompt
from labs.study.doubts import Plan, World, principal, study, world

GOOD = "I'm sorry to hear that. Please send me your order number and I will check the parcel today."


def test_pairs_labels_and_truth_stand_in_the_same_order() -> None:
    prompts = [Prompt(str(i), text="My parcel is late, where is it?") for i in range(3)]
    answers = [[GOOD, "no idea", "no idea"], ["no", GOOD], [GOOD, "Hello there my friend, hello."]]
    found = world(prompts, answers, [np.arange(len(a), dtype=float)[:, None] for a in answers])
    assert found.prompt_P.tolist() == [0, 1, 2]  # the same answer twice is one
    assert found.x_PD[:, 0].tolist() == [-1.0, -1.0, -1.0]
    assert np.sign(found.true_P).tolist() == [1.0, -1.0, 1.0]
    assert gold.utility(prompts[0], GOOD) - gold.utility(prompts[0], "no idea") == pytest.approx(found.true_P[0])
    assert found.label_P[0] > 0.5 > found.label_P[1]


def made(seed: int = 0, prompts: int = 60) -> World:
    """Pairs whose utility is linear in six of the features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(prompts * 4, 8))
    true = x @ np.array([1.0, -1.0, 0.5, 0.0, 0.0, 0.3, 0.2, 0.0])
    labels = (rng.random(len(x)) < 1 / (1 + np.exp(-3 * true))).astype(float)
    return World(x, labels, true, np.repeat(np.arange(prompts), 4))


def test_both_arms_start_alike_and_learn() -> None:
    plan = Plan(repetitions=4, start=20, batch=20, rounds=3, ridge=1.0)
    found = study(made(), plan)
    assert found["labels"] == [20, 40, 60, 80]
    assert found["chosen"][0] == found["random"][0]
    assert found["chosen"][-1] > found["chosen"][0]
    assert found["random"][-1] > 0.8
    assert found["saved"]["low"] <= found["saved"]["share"] <= found["saved"]["high"]
    assert study(made(), plan) == found


def test_principal_directions_keep_what_varies() -> None:
    found = made()
    whole = principal(found, 8)
    assert whole is found
    few = principal(found, 3)
    assert few.x_PD.shape == (240, 3)
    assert np.var(few.x_PD, axis=0).sum() <= np.var(found.x_PD, axis=0).sum() + 1e-9
    assert np.array_equal(few.label_P, found.label_P)
