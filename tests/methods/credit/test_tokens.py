"""Token-level credit, whitening and shaping against numbers worked out by hand and identities."""

from __future__ import annotations

import pytest
import torch

from keel.methods.credit.estimators import gae, returns_to_go
from keel.methods.credit.scaling import (
    Moments,
    kl_penalty,
    moments,
    overlong_penalty,
    rewards_differ,
    whiten,
    with_overlong_penalty,
    with_terminal_reward,
)
from keel.types import Encoded, Group, Prompt, Rollout


def vec(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def check(actual: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual, vec(*expected), rtol=0, atol=1e-9)


def test_gae_by_hand():
    # deltas with gamma 0.5: 1 + 0.5*4 - 2 = 1;  0 + 0.5*6 - 4 = -1;  3 - 6 = -3;  gamma * lam = 0.25
    advantages, returns = gae(vec(1.0, 0.0, 3.0), vec(2.0, 4.0, 6.0), gamma=0.5, lam=0.5)
    check(advantages, 1 - 0.25 * 1.75, -1.75, -3.0)
    check(returns, 2 + 0.5625, 2.25, 3.0)


def test_returns_by_hand():
    check(returns_to_go(vec(1.0, 2.0, 4.0), 0.5), 3.0, 4.0, 4.0)


def test_lambda_one_is_returns_minus_values_and_lambda_zero_is_the_temporal_difference():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 12, dtype=torch.float64, generator=generator)
    for gamma in (1.0, 0.9):
        advantages, returns = gae(rewards, values, gamma, 1.0)
        torch.testing.assert_close(advantages, returns_to_go(rewards, gamma) - values)
        torch.testing.assert_close(returns, returns_to_go(rewards, gamma))
        one_step = rewards + gamma * torch.cat([values[1:], vec(0.0)]) - values
        torch.testing.assert_close(gae(rewards, values, gamma, 0.0)[0], one_step)


def test_a_perfect_critic_leaves_nothing():
    rewards = vec(0.0, 0.0, 5.0)
    check(gae(rewards, vec(5.0, 5.0, 5.0), 1.0, 0.95)[0], 0.0, 0.0, 0.0)


def test_gae_keeps_the_dtype_and_refuses_unequal_lengths():
    advantages, returns = gae(torch.ones(3), torch.ones(3), 1.0, 0.95)
    assert advantages.dtype == returns.dtype == torch.float32
    with pytest.raises(AssertionError):
        gae(torch.ones(3), torch.ones(1), 1.0, 0.95)
    with pytest.raises(AssertionError):
        gae(torch.ones(2, 2), torch.ones(2, 2), 1.0, 0.95)
    with pytest.raises(AssertionError):
        gae(torch.ones(2, dtype=torch.int64), torch.ones(2), 1.0, 0.95)


def test_the_over_long_penalty_by_hand():
    # limit 20, the last 4 tokens: free up to 16, then a quarter a token
    check(overlong_penalty(vec(1.0, 16.0, 17.0, 19.0, 20.0, 25.0), 20, 4.0), 0.0, 0.0, -0.25, -0.75, -1.0, -1.0)
    check(overlong_penalty(vec(19.0, 19.75, 20.0), 20, 0.5), 0.0, -0.5, -1.0)
    with pytest.raises(AssertionError):
        overlong_penalty(vec(1.0), 20, 0.0)


def test_whitening_by_hand():
    over = moments(vec(1.0, 2.0, 3.0, 6.0))  # mean 3, variance (4 + 1 + 0 + 9) / 4
    assert (over.count, over.mean, over.variance) == (4.0, 3.0, 3.5)
    check(whiten(vec(1.0, 6.0), over, eps=0.0), -2 / 3.5**0.5, 3 / 3.5**0.5)
    check(whiten(vec(1.0, 6.0), over, eps=0.5), -1.0, 1.5)


def test_moments_add_up_over_parts():
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = sum((moments(p) for p in values.split(7)), Moments())
    whole = moments(values)
    assert parts.count == whole.count
    assert parts.mean == pytest.approx(whole.mean, abs=1e-12)
    assert parts.variance == pytest.approx(whole.variance, abs=1e-12)
    white = whiten(values, whole)
    assert white.mean().item() == pytest.approx(0, abs=1e-12)
    assert white.var(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitening_equal_or_no_numbers():
    assert whiten(torch.full((3,), 0.1), moments(torch.full((3,), 0.1))).abs().max() < 1e-6
    assert (Moments().mean, Moments().variance) == (0.0, 0.0)
    assert whiten(torch.zeros(0), Moments()).tolist() == []
    with pytest.raises(AssertionError):
        moments(torch.zeros(2, 2))
    with pytest.raises(AssertionError):
        whiten(torch.zeros(2, dtype=torch.int64), Moments())


def test_kl_penalty_has_the_sign_of_the_step_away():
    check(kl_penalty(vec(-1.0, -3.0), vec(-2.0, -2.5), 0.1), -0.1, 0.05)  # surer than the reference costs, less sure pays
    check(with_terminal_reward(vec(-0.1, 0.05), 2.0), -0.1, 2.05)
    penalties = vec(0.0, 0.0)
    with_terminal_reward(penalties, 2.0)
    check(penalties, 0.0, 0.0)  # a new tensor, the input stands
    with pytest.raises(AssertionError):
        kl_penalty(vec(0.0), vec(0.0, 0.0), 0.1)
    with pytest.raises(AssertionError):
        with_terminal_reward(vec(), 1.0)


def test_shapes_and_kinds_are_checked():
    for refused in (
        lambda: kl_penalty(torch.zeros(2, 2), torch.zeros(2, 2), 1.0),
        lambda: kl_penalty(torch.zeros(2), torch.zeros(1), 1.0),
        lambda: with_terminal_reward(torch.zeros(2, 2), 1.0),
        lambda: with_terminal_reward(torch.zeros(0), 1.0),
        lambda: overlong_penalty(torch.tensor([1]), 4, 2.0),
    ):
        with pytest.raises(AssertionError):
            refused()
    check(with_terminal_reward(vec(-1.0), 3.0), 2.0)
    check(with_terminal_reward(vec(-1.0, -2.0, -4.0), 3.0), -1.0, -2.0, -1.0)


def answers(*lengths: int, rewards: tuple[float, ...], valid: tuple[bool, ...]) -> Group:
    def rollout(n: int) -> Rollout:
        return Rollout("p", 0, 0, torch.zeros(n).long(), torch.ones(n, dtype=torch.bool), torch.zeros(n), torch.zeros(n).long(), "stop")

    parts = {"own": torch.tensor(rewards)}
    found = tuple(map(rollout, lengths))
    return Group(Prompt("p"), Encoded(torch.tensor([1])), found, torch.tensor(rewards), parts, torch.tensor(valid))


def test_the_over_long_penalty_joins_the_rewards():
    """Limit 20, the last 4 tokens, at twice the price: 18 tokens cost 2 * 2/4, 20 tokens 2 * 1."""
    found = with_overlong_penalty(answers(5, 18, 20, rewards=(1.0, 1.0, 0.5), valid=(True,) * 3), 20, 4.0, 2.0)
    assert found.rewards_G.tolist() == [1.0, 0.0, -1.5]
    assert {name: part.tolist() for name, part in found.parts.items()} == {"own": [1.0, 1.0, 0.5], "overlong": [0.0, -0.5, -1.0]}


@pytest.mark.parametrize(
    ("rewards", "valid", "differ"),
    [
        ((1.0, 1.0), (True, True), False),
        ((1.0, 2.0), (True, True), True),
        ((2.0, 1.0, 1.0), (True, True, True), True),
        ((1.0, 2.0, 1.0), (True, False, True), False),
        ((1.0, 2.0), (True, False), False),
        ((1.0, 2.0), (False, False), False),
    ],
)
def test_valid_rewards_differ_or_they_do_not(rewards, valid, differ):
    assert rewards_differ(answers(*[1] * len(rewards), rewards=rewards, valid=valid)) is differ


def test_nothing_seen_and_large_numbers():
    assert Moments() == Moments(0.0, 0.0, 0.0)
    assert moments(vec(0.0, 0.2)).variance == pytest.approx(0.01)
    assert (Moments().mean, Moments().variance) == (0.0, 0.0)
    large = torch.tensor([0.0, 100.0, 100.0]) + 2.0**24  # mean 200/3 above: no number of float32
    assert whiten(large, moments(large)).tolist() == pytest.approx([-(2**0.5), 0.5**0.5, 0.5**0.5], rel=1e-3)


@pytest.mark.parametrize("centre", [0.0, 2.0**24, -1e12])
def test_the_variance_is_that_of_the_distances_wherever_the_numbers_are(centre: float):
    """0, 1, 5 and 2, 10 above ``centre``: mean 18/5, squared distances from it 65.2 in sum; in parts as in one."""
    parts = [vec(0.0, 1.0, 5.0) + centre, vec(2.0) + centre, vec(10.0) + centre]
    over = sum(map(moments, parts), Moments())
    assert (over.count, over.mean - centre) == pytest.approx((5.0, 3.6), abs=1e-3)
    assert over.variance == pytest.approx(65.2 / 5, rel=1e-4)
    assert moments(torch.cat(parts)).variance == pytest.approx(65.2 / 5, rel=1e-4)


def test_moments_of_nothing_add_nothing():
    some = moments(vec(1.0, 3.0))
    assert some == Moments(2.0, 2.0, 2.0)
    assert some + Moments() == some == Moments() + some
    assert moments(vec()) == Moments() == Moments() + Moments()


def test_moments_go_on_from_a_checkpoint_also_of_an_older_format():
    """1 and 3: sum 4, sum of squares 10, squared distances 2."""
    some = moments(vec(1.0, 3.0))
    assert Moments.of_state({"count": 2.0, "mean": 2.0, "deviations": 2.0}) == some
    assert Moments.of_state({"count": 2.0, "total": 4.0, "squares": 10.0}) == some
    assert Moments.of_state({"count": 0.0, "total": 0.0, "squares": 0.0}) == Moments()
    assert Moments.of_state({"count": 3.0, "total": 0.3, "squares": 0.03 - 1e-12}).deviations == 0.0  # below 0 by rounding
