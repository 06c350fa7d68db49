"""Length-controlled win rates: known coefficients come back, nothing foreign comes in, what cannot be told is told."""

from __future__ import annotations

import numpy as np
import pytest

from keel.evaluate import statistics as st


def made(n: int, constant: float, slope: float, seed: int, gap: float = 0.4) -> tuple[dict[str, float], dict[str, float]]:
    """Win shares whose log-odds are ``constant + slope * tanh(difference / spread)``, as they are, without noise."""
    rng = np.random.default_rng(seed)
    gaps = rng.normal(gap * 100, 100, n)
    shares = 1 / (1 + np.exp(-(constant + slope * np.tanh(gaps / gaps.std()))))
    return {str(i): float(s) for i, s in enumerate(shares)}, {str(i): float(g) for i, g in enumerate(gaps)}


def test_known_coefficients_come_back():
    shares, lengths = made(60, -0.4, 1.3, 0)
    found = st.length_controlled(shares, lengths, draws=50)
    assert found.win_rate.mean == pytest.approx(1 / (1 + np.exp(0.4)), abs=1e-6)
    assert found.slope == pytest.approx(1.3, abs=1e-4)
    assert found.raw.mean == pytest.approx(np.mean(list(shares.values())))


def test_a_win_by_length_alone_is_told():
    shares, lengths = made(300, 0.0, 3.0, 1, gap=1.0)
    found = st.length_controlled(shares, lengths, draws=200)
    assert found.raw.low > 0.5
    assert found.win_rate.mean == pytest.approx(0.5, abs=1e-3)
    rng = np.random.default_rng(0)
    noisy = {k: float(rng.random() < v) for k, v in shares.items()}
    assert st.length_controlled(noisy, lengths, draws=200).explained


def test_equal_lengths_and_unanimous_prompts_change_nothing():
    wins = {str(i): float(i % 3 > 0) for i in range(30)}
    assert st.length_controlled(wins, dict.fromkeys(wins, 0.0)).win_rate == st.win_rate(wins)
    assert st.length_controlled(dict.fromkeys(wins, 1.0), {k: float(len(k)) for k in wins}).win_rate == st.wilson(30, 30)


def test_an_empty_join_is_an_error():
    with pytest.raises(ValueError, match="none of the same prompt"):
        st.length_controlled({"a": 1.0}, {"b": 3.0})
    with pytest.raises(ValueError, match="none of the same prompt"):
        st.length_controlled({"a": 1.0}, {"a": 3.0}, difficulty={"b": 0.1})


def test_separated_shares_stay_finite():
    """Longer always wins: the slope has no finite best value, the estimate has."""
    lengths = {str(i): float(i - 10) for i in range(21)}
    found = st.length_controlled({k: float(v > 0) for k, v in lengths.items()}, lengths, draws=100)
    assert 0 <= found.win_rate.low <= found.win_rate.mean <= found.win_rate.high <= 1


def test_own_difficulty_comes_from_the_other_models():
    shares = {"a": {"x": 1.0, "y": 0.0}, "b": {"x": 1.0, "y": 0.0}, "c": {"x": 0.0, "y": 1.0}}
    found = st.own_difficulty(shares, "c")
    assert found["x"] == pytest.approx(np.log(5))  # (2 + 1/2) / 3 = 5/6
    assert found["x"] == pytest.approx(-found["y"])
    assert st.own_difficulty({"a": {"x": 1.0}}, "a") == {}


def test_constant_answers_are_seen():
    assert st.constant_share(["Same  text", "same text", "other", "SAME TEXT"]) == 0.75
    assert st.constant_share(["one"]) == 0.0


@pytest.mark.slow
def test_the_refit_interval_covers():
    """400 data sets of 150 prompts: the interval of the refit holds the truth in 95%, +- 3 points."""
    rng = np.random.default_rng(5)
    held, truth = 0, 1 / (1 + np.exp(-0.3))
    for trial in range(400):
        gaps = rng.normal(30, 100, 150)
        p = 1 / (1 + np.exp(-(0.3 + 1.2 * np.tanh(gaps / gaps.std()))))
        shares = {str(i): float(w) for i, w in enumerate(rng.random(150) < p)}
        found = st.length_controlled(shares, {str(i): float(g) for i, g in enumerate(gaps)}, draws=300, seed=trial).win_rate
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98
