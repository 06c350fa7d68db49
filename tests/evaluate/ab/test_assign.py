"""Assignment by hash, and arms that are not as large as they were meant to be."""

from __future__ import annotations

import random

import pytest

from keel.evaluate.ab.assign import TREATMENT, assign, balance, place


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_shares_are_off_by_at_most_a_hundredth(share: float):
    for name in ("a", "another", "实验"):
        got = sum(assign(name, f"user-{i}", share) == TREATMENT for i in range(10_000)) / 10_000
        assert abs(got - share) <= 0.01


def test_a_growing_share_moves_nobody_back():
    before = {f"u{i}" for i in range(2_000) if assign("x", f"u{i}", 0.1) == TREATMENT}
    after = {f"u{i}" for i in range(2_000) if assign("x", f"u{i}", 0.3) == TREATMENT}
    assert before < after
    assert place("x", "u1") == place("x", "u1") != place("y", "u1")


def test_two_experiments_are_independent():
    both = sum(assign("x", f"u{i}") == assign("y", f"u{i}") for i in range(10_000))
    assert abs(both - 5_000) < 200


def test_uneven_arms_are_seen_and_even_ones_are_not():
    """Hand-computed: 60 of 100 at one half, chi-squared 4, p 0.0455."""
    assert balance([True] * 60 + [False] * 40, 0.5).p_value == pytest.approx(0.0455, abs=1e-4)
    assert balance([True] * 2, 0.5).evidence == pytest.approx((50 / 100 / 0.5) * (51 / 101 / 0.5))
    rng = random.Random(3)
    assert balance([rng.random() < 0.57 for _ in range(4_000)], 0.5).evidence > 100
    alarms = sum(balance([rng.random() < 0.5 for _ in range(1_500)], 0.5).evidence > 100 for _ in range(150))
    assert alarms <= 6  # at all looks together at most 1%: 150 streams have more than 6 with probability 1e-3
