"""Rewards on a scale that credit can use."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from keel.methods.credit.scaling import RewardRule, RewardScale, scaled
from keel.types import Encoded, Group, Prompt


def group(*rewards: float, valid: tuple[bool, ...] = (), greedy: float = math.nan) -> Group:
    keep = torch.tensor(valid or (True,) * len(rewards))
    return Group(Prompt("p"), Encoded(torch.tensor([1])), (), torch.tensor(rewards), {"own": torch.tensor(rewards)}, keep, greedy)


RUNNING, QUANTILE = RewardRule("running"), RewardRule("quantile", decay=0.75)


def values(groups: tuple[Group, ...]) -> list[list[float]]:
    return [g.rewards_G.tolist() for g in groups]


def test_running_mean_and_deviation_are_of_all_rewards_so_far():
    """1 and 3: mean 2, deviation 1. With 5 and 7 beside them: mean 4, deviation sqrt 5."""
    scale = RewardScale().after([group(1.0), group(3.0)], RUNNING)
    assert values(scaled([group(1.0, 3.0)], scale, RUNNING)) == [[-1.0, 1.0]]
    scale = scale.after([group(5.0, 7.0, 100.0, valid=(True, True, False))], RUNNING)
    (found,) = scaled([group(9.0, 4.0, greedy=6.5)], scale, RUNNING)
    assert found.rewards_G.tolist() == pytest.approx([5 / 5**0.5, 0.0])
    assert found.greedy_reward == pytest.approx(2.5 / 5**0.5)
    assert found.parts["own"].tolist() == [9.0, 4.0], "parts stay as they were given"


def test_quantiles_are_a_moving_average():
    """0, 1 ... 100: the 5th and 95th percentile are 5 and 95. A batch of 45 alone then moves them by a quarter: 15 and 82.5."""
    scale = RewardScale().after([group(*map(float, range(101)))], QUANTILE)
    assert values(scaled([group(50.0, 95.0, 5.0)], scale, QUANTILE)) == [[0.0, 0.5, -0.5]]
    scale = scale.after([group(45.0, 45.0)], QUANTILE)
    assert scale.centre_and_spread(QUANTILE) == pytest.approx(((15 + 82.5) / 2, 82.5 - 15))


def test_clipping_comes_last():
    scale = RewardScale().after([group(1.0, 3.0)], RUNNING)
    (found,) = scaled([group(9.0, -9.0, 2.5, greedy=50.0)], scale, replace(RUNNING, clip=4.0))
    assert found.rewards_G.tolist() == [4.0, -4.0, 0.5]
    assert found.greedy_reward == 4.0
    assert values(scaled([group(9.0, -9.0, 2.5)], RewardScale(), RewardRule(clip=4.0))) == [[4.0, -4.0, 2.5]]
    plain = group(1e9, greedy=1.0)
    assert scaled([plain], scale, RewardRule()) == (plain,)


def test_equal_rewards_and_no_rewards():
    for rule in (RUNNING, QUANTILE):
        scale = RewardScale().after([group(2.0, 2.0)], rule)
        (found,) = scaled([group(2.0, 2.0)], scale, rule)
        assert found.rewards_G.tolist() == [0.0, 0.0]
        assert math.isnan(found.greedy_reward)
        assert scale.after([group(7.0, valid=(False,))], rule) == scale
        assert scale.after([], rule) == scale


def test_a_scale_goes_on_from_its_state():
    scale = RewardScale().after([group(1.0, 3.0, 4.0)], QUANTILE)
    again = RewardScale.of_state(json.loads(json.dumps(scale.state())))
    assert again == scale
    assert again.after([group(0.5)], QUANTILE) == scale.after([group(0.5)], QUANTILE)
    assert RewardScale.of_state(RewardScale().state()) == RewardScale()
    older = {"seen": {"count": 3.0, "total": 8.0, "squares": 26.0}, "low": None, "high": None}
    assert RewardScale.of_state(older).centre_and_spread(RUNNING) == pytest.approx(scale.centre_and_spread(RUNNING))


def test_rewards_of_single_tokens_are_scaled_and_large_numbers_stay_exact():
    """Deviation 2: what is due at a token is halved and not shifted. Large rewards: mean 200/3 above 2 to the 24."""
    scale = RewardScale().after([group(1.0, 5.0)], RUNNING)
    (found,) = scaled([replace(group(7.0), moved=(torch.tensor([0.5, -0.5]),))], scale, RUNNING)
    assert (found.rewards_G.tolist(), found.moved[0].tolist()) == ([2.0], [0.25, -0.25])
    large = group(*(2.0**24 + x for x in (0.0, 100.0, 100.0)))
    (found,) = scaled([large], RewardScale().after([large], RUNNING), RUNNING)
    assert found.rewards_G.tolist() == pytest.approx([-(2**0.5), 0.5**0.5, 0.5**0.5], rel=1e-3)
    assert RewardRule() == RewardRule("none", 0.99, None)
