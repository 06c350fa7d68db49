"""Reward losses: probabilities that add up, special cases that meet, gradients against finite differences; all in float64."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch

from keel.methods.math import reward
from keel.methods.math import reward as ratings


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full(value: float, n: int = 6) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


@pytest.mark.parametrize("loss", [reward.davidson, reward.rao_kupper])
def test_win_tie_and_loss_are_one(loss):
    s, t, weight = draw(6), draw(6, seed=1), draw(6, seed=2)
    votes = [(full(1.0), full(0.0)), (full(0.5), full(1.0)), (full(0.0), full(0.0))]
    total = sum((-loss(s, t, label, tie, weight)).exp() for label, tie in votes)
    torch.testing.assert_close(total, full(1.0))


@pytest.mark.parametrize("loss", [reward.davidson, reward.rao_kupper])
def test_without_ties_it_is_bradley_terry(loss):
    s, t, label = draw(6), draw(6, seed=1), draw(6, seed=2).sigmoid()
    found = loss(s, t, label, full(0.0), full(-60.0))
    torch.testing.assert_close(found, reward.bradley_terry(s, t, label, full(0.0)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", [reward.davidson, reward.rao_kupper])
def test_swapping_the_answers_with_the_label_changes_nothing(loss):
    s, t, tie, weight = draw(6), draw(6, seed=1), draw(6, seed=2).sigmoid() / 2, draw(6, seed=3)
    label = tie / 2 + (1 - tie) * draw(6, seed=4).sigmoid()
    torch.testing.assert_close(loss(s, t, label, tie, weight), loss(t, s, 1 - label, tie, weight))


def test_a_tie_is_cheapest_between_equals():
    for loss in (reward.davidson, reward.rao_kupper):
        at = [float(loss(full(d, 1), full(0.0, 1), full(0.5, 1), full(1.0, 1), full(0.0, 1))) for d in (-2.0, -0.5, 0.0, 0.5, 2.0)]
        assert min(at) == at[2]
        assert at[0] == pytest.approx(at[4])


def test_rankings_add_up_to_one_and_two_answers_are_a_pair():
    scores = draw(4)
    orders = [torch.tensor(p, dtype=torch.float64) for p in itertools.permutations((1, 2, 3, 4))]
    assert sum(math.exp(-3 * float(reward.plackett_luce(scores, o))) for o in orders) == pytest.approx(1.0)
    pair = reward.bradley_terry(scores[1:2], scores[:1], full(1.0, 1), full(0.0, 1))
    assert float(reward.plackett_luce(scores[:2], torch.tensor([2.0, 1.0]).double())) == pytest.approx(float(pair))


def test_a_ranking_does_not_depend_on_the_order_it_is_written_in():
    scores, ranks, order = draw(5), torch.tensor([2.0, 1.0, 3.0, 1.0, 3.0]).double(), [3, 0, 4, 1, 2]
    torch.testing.assert_close(reward.plackett_luce(scores, ranks), reward.plackett_luce(scores[order], ranks[order]))


def test_levels_add_up_to_one_even_far_out():
    cuts = torch.tensor([-2.0, -1.5, 0.0, 3.0], dtype=torch.float64).expand(5, 4)
    levels = ratings.cumulative_link(torch.tensor([-300.0, -1.0, 0.0, 2.0, 300.0], dtype=torch.float64), cuts)
    torch.testing.assert_close(levels.exp().sum(1), full(1.0, 5))
    assert torch.isfinite(levels).all()
    assert levels.argmax(1).tolist() == [0, 2, 3, 3, 4]


GRADIENTS = {
    "bradley_terry": lambda s: reward.bradley_terry(s[:3], s[3:], full(0.8, 3), full(0.3, 3)),
    "hinge": lambda s: reward.hinge(s[:3], s[3:], full(0.8, 3), full(1.0, 3)),
    "davidson": lambda s: reward.davidson(s[:2], s[2:4], full(0.6, 2), full(0.3, 2), s[4:]),
    "rao_kupper": lambda s: reward.rao_kupper(s[:2], s[2:4], full(0.6, 2), full(0.3, 2), s[4:]),
    "plackett_luce": partial(reward.plackett_luce, ranks_K=torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0, 4.0]).double()),
    "uncertain": lambda s: reward.uncertain(s[:3], s[3:].exp()),
    "squared_error": lambda s: ratings.squared_error(s[:3], full(0.4, 3)),
    "gaussian": lambda s: ratings.gaussian(s[:3], s[3:].exp(), full(0.4, 3)),
    "ordinal": lambda s: ratings.level(ratings.cumulative_link(s[:3], s[3:].sort().values.expand(3, 3)), torch.tensor([0, 1, 3])),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_the_finite_differences(name):
    torch.autograd.gradcheck(GRADIENTS[name], (draw(6, seed=5).requires_grad_(),))


def test_a_model_does_not_learn_from_its_own_label():
    lead = draw(6).requires_grad_()
    assert not reward.self_trusting(full(0.7), lead, 0.5).requires_grad


def test_the_uncertain_lead_is_the_expected_sigmoid():
    lead, sd = torch.tensor([0.5, 1.5], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    nodes = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = torch.softmax(-nodes.square() / 2, 0)
    expected = (torch.sigmoid(lead[:, None] + sd[:, None] * nodes) * density).sum(1)
    torch.testing.assert_close(torch.sigmoid(reward.uncertain(lead, sd.square())), expected, rtol=0, atol=0.02)
