"""Weights of groups of prompts, by hand (Sagawa et al. 2020, algorithm 1)."""

from __future__ import annotations

import math

import pytest
import torch

from keel.methods import rollout_units
from keel.methods.credit.assign import CreditRule, assign
from keel.methods.credit.robust import GroupWeights, next_weights
from keel.types import Encoded, Group, Prompt, Rollout


def group(name: str, kind: str, rewards: list[float], valid: list[bool]) -> Group:
    none_T = torch.zeros(1)
    rollouts = tuple(
        Rollout(name, 0, i, torch.tensor([i]), torch.ones(1, dtype=torch.bool), none_T, none_T.long(), "stop") for i in range(len(rewards))
    )
    return Group(Prompt(name, meta={"kind": kind}), Encoded(torch.tensor([1])), rollouts, torch.tensor(rewards), {}, torch.tensor(valid))


def test_weights_by_hand():
    found = next_weights({"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 0.0, "b": math.log(2.0)}, 1.0)
    assert found == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})
    far = next_weights({"a": 0.5, "b": 0.5}, {"a": 1e5, "b": 0.0}, 1.0)
    assert sum(far.values()) == 1.0
    assert next_weights(far, {"a": 0.0, "b": 40.0}, 1.0)["b"] > 0.5  # one that was at 0 comes back


def test_the_worst_group_counts_most():
    groups = [group("p", "easy", [1.0, 0.0], [True, True]), group("q", "hard", [0.0, -1.0, 9.0], [True, True, False])]
    units = assign(groups, rollout_units(groups), CreditRule("group_centred"))
    robust = GroupWeights.of("kind", 2.0, ["easy", "hard", "easy"])
    weighed, told = robust.weigh(groups, units)
    # losses -1/2 and 1/2, step 2: weights e^-1 and e^1, made to sum to 1; advantages are 1/2 and -1/2, times 2 q
    easy, hard = (math.exp(x) / (math.exp(1) + math.exp(-1)) for x in (-1, 1))
    assert (told["robust/weight/easy"], told["robust/weight/hard"]) == pytest.approx((easy, hard))
    assert (told["robust/reward/easy"], told["robust/reward/hard"], told["robust/worst"]) == (0.5, -0.5, -0.5)
    advantages = [[float(b.signals["advantages"]) for b in unit.branches] for unit in weighed]
    assert advantages == [pytest.approx([easy, -easy]), pytest.approx([hard, -hard])]
    again = GroupWeights("kind", 2.0)
    again.load_state(robust.state())
    assert again.weights == robust.weights


def test_equal_weights_change_nothing():
    groups = [group("p", "a", [1.0, 0.0], [True, True]), group("q", "b", [0.0, 1.0], [True, True])]
    units = assign(groups, rollout_units(groups), CreditRule("group_centred"))
    weighed, _ = GroupWeights.of("kind", 3.0, ["a", "b"]).weigh(groups, units)
    for before, after in zip(units, weighed, strict=True):
        for b, a in zip(before.branches, after.branches, strict=True):
            assert torch.equal(b.signals["advantages"], a.signals["advantages"])
