"""Bets and mixtures: identities, published numbers, errors at many looks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from keel.evaluate.ab import betting, mixture
from keel.evaluate.ab.effect import Stream


def test_capital_is_a_martingale():
    """The mean of the capital over all sequences of four fair coins, and of win / tie / loss, is what it began with."""
    for values, chances, mean in (((0.0, 1.0), (0.5, 0.5), 0.5), ((0.0, 0.5, 1.0), (0.2, 0.2, 0.6), 0.7)):
        total = 0.0
        for picked in itertools.product(range(len(values)), repeat=4):
            weight = math.prod(chances[i] for i in picked)
            total += weight * math.exp(betting.log_capital([values[i] for i in picked], mean)[-1])
        assert total == pytest.approx(1.0)
    assert math.exp(betting.log_capital([1.0, 1.0], 0.9)[-1]) < 1.2  # what was expected makes nobody rich


def test_one_value_decides_nothing_and_many_do():
    assert betting.first_crossing([1.0, 1.0, 1.0], 0.5) is None  # at most 2^3
    assert betting.first_crossing([1.0] * 12, 0.5) == pytest.approx(7, abs=2)
    assert betting.first_crossing([0.5] * 1_000, 0.5) is None
    low, high = betting.interval([1.0] * 40 + [0.0] * 20)
    assert 0 < low < 2 / 3 < high < 1
    assert betting.interval([]) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        betting.log_capital([1.5], 0.5)


def test_how_many_more_is_about_right():
    """Half of the sequences of coins with 0.6 decide within about twice what is told after 50 of them."""
    rng = np.random.default_rng(1)
    told, needed = [], []
    for _ in range(60):
        x = (rng.random(3_000) < 0.6).astype(float)
        at = betting.first_crossing(x, 0.5) or 3_000
        if at > 60 and (more := betting.more_until(x[:50], 0.5)) is not None:
            told.append(50 + more)
            needed.append(at)
    assert 0.5 < np.median(told) / np.median(needed) < 2


SHAPES = {"win-tie-loss": ((0.0, 0.5, 1.0), (0.4, 0.2, 0.4)), "mostly ties": ((0.0, 0.5, 1.0), (0.02, 0.96, 0.02)), "shares": None}


def drawn(rng: np.random.Generator, shape: str, n: int) -> np.ndarray:
    found = SHAPES[shape]
    return rng.beta(0.5, 0.5, n) if found is None else rng.choice(found[0], n, p=found[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_error_at_a_thousand_looks(shape: str):
    """From the first value on; 120 sequences with a true error of 5% have at most 12 with probability 0.99."""
    rng = np.random.default_rng(11)
    assert sum(betting.first_crossing(drawn(rng, shape, 1_000), 0.5) is not None for _ in range(120)) <= 12


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_error_at_ten_thousand_looks(shape: str):
    rng = np.random.default_rng(12)
    wrong = sum(betting.first_crossing(drawn(rng, shape, 10_000), 0.5) is not None for _ in range(1_000))
    assert wrong / 1_000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1_000)


@pytest.mark.slow
def test_error_of_users_in_two_arms_at_any_look():
    """No effect, lopsided arms, rare outcomes: the interval of bets on weighed values leaves out 0 in at most 5%."""
    rng = np.random.default_rng(13)
    wrong = 0
    for _ in range(300):
        treated = rng.random(2_000) < 0.2
        stream = Stream((rng.random(2_000) < 0.1).astype(float), treated, 0.2, 0.0, 1.0)
        wrong += betting.first_crossing(stream.bets()[0], 0.5) is not None
    assert wrong / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_the_mixture_beside_published_numbers():
    """Half-widths at horizon 5,000; growthbook's gbstats 0.8, 480 of 1,000 against 540 of 1,000: interval and p at two horizons."""
    table = {100: 0.66944, 1_000: 0.10638, 5_000: 0.04292, 10_000: 0.03061}
    for n, width in table.items():
        assert mixture.half_width(n, 1.0, 5_000) == pytest.approx(width, abs=5e-6)
    deviation = math.sqrt(2_000 * (0.48 * 0.52 + 0.54 * 0.46) / 1_000)
    for horizon, low, p in ((5_000, -0.0097100, 0.130796), (1_000, -0.0083197, 0.137052)):
        assert 0.06 - mixture.half_width(2_000, deviation, horizon) == pytest.approx(low, abs=1e-6)
        assert mixture.p_value(0.06, 2_000, deviation, horizon) == pytest.approx(p, abs=2e-6)


def test_the_mixture_says_nothing_before_its_burn_in():
    """99 wins: bets have decided long ago, the asymptotic interval has no ends."""
    stream = Stream(np.full(99, 0.5), None, 0.5, -0.5, 0.5)
    assert stream.mixture_interval(0.05, 1_000, mixture.BURN_IN) == (-math.inf, math.inf)
    assert stream.betting_interval(0.05)[0] > 0


def test_weighed_values_have_the_effect_as_their_mean():
    rng = np.random.default_rng(2)
    treated = rng.random(200_000) < 0.3
    stream = Stream(np.where(treated, 0.7, 0.6) + 0.2 * (rng.random(200_000) - 0.5), treated, 0.3, 0.0, 1.0)
    x, scale = stream.bets()
    assert (x.mean() - 0.5) / scale == pytest.approx(0.1, abs=0.005)
    assert 0 <= x.min() <= x.max() <= 1
