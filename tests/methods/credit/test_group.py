"""Credit for whole sequences against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from keel.methods.credit.estimators import (
    batch_baseline,
    batch_normalised,
    greedy_baseline,
    group_centred,
    group_normalised,
    leave_one_out,
    no_baseline,
    optimal_baseline,
)


def equal_lengths(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    return optimal_baseline(rewards, groups, torch.full(rewards.shape, 7.0))


ALL = [group_normalised, group_centred, leave_one_out, batch_baseline, equal_lengths]
REWARDS = torch.tensor([1.0, 2.0, 3.0, 0.0, 4.0], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 0, 1, 1])  # means 2 and 2; deviations 1 and 2 sqrt(2)


def check(actual: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_hand_computed():
    one, two = 1 / (1 + 1e-4), 2 / (math.sqrt(8) + 1e-4)
    check(group_normalised(REWARDS, GROUPS), -one, 0.0, one, -two, two)
    check(group_normalised(REWARDS, GROUPS, eps=1.0), -0.5, 0.0, 0.5, -2 / (math.sqrt(8) + 1), 2 / (math.sqrt(8) + 1))
    check(group_centred(REWARDS, GROUPS), -1.0, 0.0, 1.0, -2.0, 2.0)
    check(leave_one_out(REWARDS, GROUPS), 1 - 2.5, 2 - 2.0, 3 - 1.5, 0 - 4.0, 4 - 0.0)
    check(batch_baseline(REWARDS + 1, GROUPS), -1.0, 0.0, 1.0, -2.0, 2.0)


def test_groups_do_not_see_each_other():
    """Normalising over the whole batch instead is a known slip: another group's rewards must not matter."""
    moved = torch.where(GROUPS == 1, REWARDS * 100, REWARDS)
    for credit in (group_normalised, group_centred, leave_one_out):
        torch.testing.assert_close(credit(moved, GROUPS)[:3], credit(REWARDS, GROUPS)[:3])
    assert not torch.equal(batch_baseline(moved, GROUPS)[:3], batch_baseline(REWARDS, GROUPS)[:3])


@pytest.mark.parametrize("credit", ALL)
def test_equal_rewards_give_exactly_zero(credit):
    """0.1 + 0.1 + 0.1 is not 0.3: rounding must not become an advantage."""
    rewards = torch.full((7,), 0.1, dtype=torch.float32)
    assert credit(rewards, torch.zeros(7, dtype=torch.int64)).tolist() == [0.0] * 7


@pytest.mark.parametrize("credit", ALL)
def test_a_group_of_one_and_an_empty_batch(credit):
    assert credit(torch.tensor([3.0]), torch.tensor([0])).tolist() == [0.0]
    assert credit(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("credit", ALL)
def test_order_offset_and_dtype(credit):
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(credit(REWARDS[order], GROUPS[order]), credit(REWARDS, GROUPS)[order])
    torch.testing.assert_close(credit(REWARDS + 5, GROUPS), credit(REWARDS, GROUPS))
    assert credit(REWARDS.float(), GROUPS).dtype == torch.float32


@pytest.mark.parametrize("credit", [group_normalised, group_centred, leave_one_out])
def test_advantages_of_a_group_sum_to_zero(credit):
    advantages = credit(REWARDS, GROUPS)
    assert advantages[:3].sum().item() == pytest.approx(0, abs=1e-12)
    assert advantages[3:].sum().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("credit", ALL)
def test_refuses_what_would_broadcast(credit):
    with pytest.raises(AssertionError):
        credit(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(AssertionError):
        credit(torch.zeros(2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(AssertionError):
        credit(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(AssertionError):
        credit(torch.zeros(2), torch.zeros(2))


def test_the_optimal_baseline_weighs_rewards_by_length():
    # group 0: (1*1 + 2*2 + 3*5) / 8 = 2.5; group 1: (0*3 + 4*1) / 4 = 1
    lengths = torch.tensor([1.0, 2.0, 5.0, 3.0, 1.0])
    check(optimal_baseline(REWARDS, GROUPS, lengths), -1.5, -0.5, 0.5, -1.0, 3.0)
    torch.testing.assert_close(equal_lengths(REWARDS, GROUPS), group_centred(REWARDS, GROUPS))


def test_the_optimal_baseline_has_the_least_variance():
    """Gradients of l tokens' log-probabilities, each token a coin of its own: no other constant gives a smaller second moment."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 20, (4000,), generator=generator).double()
    rewards = lengths / 10 + torch.rand(4000, generator=generator, dtype=torch.float64)
    squares = lengths  # |g|^2 of l uncorrelated tokens of unit size
    same = torch.zeros(4000, dtype=torch.int64)
    best = rewards[0] - optimal_baseline(rewards, same, lengths)[0]

    def second_moment(baseline: torch.Tensor) -> float:
        return float((squares * (rewards - baseline).square()).mean())

    assert all(second_moment(best) < second_moment(best + shift) for shift in (-0.05, 0.05, float(rewards.mean() - best)))


def test_greedy_and_no_baseline():
    greedy = torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0])
    check(greedy_baseline(REWARDS, GROUPS, greedy), -1.0, 0.0, 1.0, -1.0, 3.0)
    check(no_baseline(REWARDS, GROUPS), 1.0, 2.0, 3.0, 0.0, 4.0)
    assert greedy_baseline(REWARDS.float(), GROUPS, greedy.double()).dtype == torch.float32
    for credit in (optimal_baseline, greedy_baseline):
        with pytest.raises(AssertionError):
            credit(REWARDS, GROUPS, torch.ones(1))
    with pytest.raises(AssertionError):
        no_baseline(torch.zeros(2, 2), GROUPS)


@pytest.mark.parametrize("rule", [*ALL, batch_normalised, no_baseline, lambda r, g: greedy_baseline(r, g, torch.zeros(len(r)))])
def test_whole_rewards_and_short_group_numbers_are_refused(rule):
    with pytest.raises(AssertionError):
        rule(torch.tensor([1, 2]), torch.tensor([0, 0]))
    with pytest.raises(AssertionError):
        rule(torch.tensor([1.0, 2.0]), torch.tensor([0, 0], dtype=torch.int32))


@pytest.mark.parametrize("rule", [group_normalised, group_centred, leave_one_out, batch_baseline, batch_normalised, equal_lengths])
def test_equal_rewards_are_exactly_nothing_in_groups_of_any_size(rule):
    for n in range(2, 40):
        for reward in (0.1, 1 / 3, -0.7):
            assert not rule(torch.full((n,), reward, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)).any(), (n, reward)


def test_the_whole_batch_s_deviation():
    """Rewards 1, 2, 3, 0, 4: mean 2, squares 1 + 0 + 1 + 4 + 4, deviation sqrt(10 / 4)."""
    scale = 1 / (math.sqrt(2.5) + 1e-4)
    check(batch_normalised(REWARDS, GROUPS), -scale, 0.0, scale, -2 * scale, 2 * scale)


def test_sums_are_exact_in_double_precision():
    """Four samples: the factor is 4/3. A very long answer beside a thousand short ones: its weight is not 1."""
    check(leave_one_out(torch.tensor([3e3, 0.0, 0.0, 0.0]).double(), torch.zeros(4, dtype=torch.int64)), 3e3, -1e3, -1e3, -1e3)
    lengths = torch.tensor([2.0**24] + [1.0] * 1000)
    rewards = torch.zeros(1001, dtype=torch.float64)
    rewards[0] = 1.0
    found = optimal_baseline(rewards, torch.zeros(1001, dtype=torch.int64), lengths)
    assert float(found[0]) == pytest.approx(1000 / (2**24 + 1000), rel=1e-6)
