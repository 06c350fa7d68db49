"""Intervals without resampling, Holm, convergence: numbers by hand, published quantiles, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keel.evaluate import statistics as st
from keel.evaluate.statistics.distributions import chi_squared_tail, normal_cdf, t_cdf, t_quantile


def test_quantiles_of_tables():
    table = {1: 12.7062, 2: 4.3027, 5: 2.5706, 10: 2.2281, 30: 2.0423, 120: 1.9799}
    for df, value in table.items():
        assert t_quantile(0.975, df) == pytest.approx(value, abs=6e-5)
        assert t_cdf(-t_quantile(0.975, df), df) == pytest.approx(0.025, abs=1e-10)
    assert t_quantile(0.975, 1e6) == pytest.approx(1.959966, abs=1e-5)
    assert chi_squared_tail(3.841459) == pytest.approx(0.05, abs=1e-6)
    assert normal_cdf(np.array([1.959964])) == pytest.approx(0.975, abs=1e-6)


def test_clustered_by_hand():
    """Sums 3, 1, 2 of 4, 2, 2 values: mean 6/8, residuals 0, -1/2, 1/2, variance 3/2 * 1/2 / 64."""
    found = st.clustered([3.0, 1.0, 2.0], [4.0, 2.0, 2.0])
    assert (found.mean, found.n) == (0.75, 3)
    assert found.error == pytest.approx(math.sqrt(1.5 * 0.5) / 8)
    assert found.interval().high - 0.75 == pytest.approx(4.3027 * found.error, rel=1e-4)
    assert st.clustered([1.0, 2.0, 3.0]).p_value(0.0) == pytest.approx(2 * (1 - t_cdf(2 / math.sqrt(1 / 3), 2)))
    assert st.clustered([1.0] * 5).p_value(0.5) == 2 * 0.5**5  # none spread: the sign test
    with pytest.raises(ValueError, match="no values"):
        st.clustered([])


def test_a_share_of_independent_wins_is_wilsons():
    """Wins and losses alone are Wilson's; with halves among them, mean 1/2 and standard deviation 1/4, Student's with 4 (n - 1) trials."""
    assert st.share_interval(st.clustered([1.0] * 60 + [0.0] * 40)) == st.wilson(60, 100)
    found = st.share_interval(st.clustered([0.25] * 10 + [0.75] * 10))
    z, trials = t_quantile(0.975, 19), 4 * 19
    assert found.high - 0.5 == pytest.approx(z / (1 + z * z / trials) * math.sqrt(0.25 / trials + z * z / (4 * trials**2)))
    assert st.share_interval(st.clustered([1.0] * 7)) == st.wilson(7, 7)


def shapes(rng: np.random.Generator, prompts: int, kind: str) -> tuple[np.ndarray, float]:
    """Win shares of prompts whose difficulty differs, and their true mean."""
    if kind == "answers":  # four pairings of a prompt hang together
        return rng.binomial(4, rng.beta(1.2, 0.8, prompts)) / 4, 0.6
    if kind == "votes":
        return rng.choice([0.0, 0.5, 1.0], prompts, p=[0.3, 0.2, 0.5]), 0.6
    # wins and losses alone: at one true rate the coverage of any interval jumps with the grid of k/n (at 40 prompts it
    # is 0.93 to 0.97), so the rate differs from simulation to simulation
    rate = rng.uniform(0.6, 0.9)
    return (rng.random(prompts) < rate).astype(float), rate


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["answers", "votes", "lopsided"])
@pytest.mark.parametrize("prompts", [40, 150])
def test_coverage(kind: str, prompts: int):
    """95 +- 1% in 2,000 simulations, whose own error is half a point: 1.5 points are allowed."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(2_000):
        values, truth = shapes(rng, prompts, kind)
        found = st.share_interval(st.clustered(values))
        held += found.low <= truth <= found.high
    assert 0.935 <= held / 2_000 <= 0.965


@pytest.mark.slow
def test_coverage_of_questions_about_common_passages():
    """30 passages with 10 questions each, paired differences: ignoring passages holds the truth in three of four, clustering in 95%."""
    rng = np.random.default_rng(3)
    held = naive = 0
    for _ in range(2_000):
        values = 0.1 + rng.normal(0, 0.3, (30, 1)) + rng.normal(0, 0.5, (30, 10))
        found = st.clustered(values.sum(1), [10.0] * 30).interval()
        flat = st.clustered(values.ravel()).interval()
        held += found.low <= 0.1 <= found.high
        naive += flat.low <= 0.1 <= flat.high
    assert 0.94 <= held / 2_000 <= 0.96
    assert naive / 2_000 < 0.85


def test_holm_by_hand():
    """0.01 * 3, 0.02 * 2, 0.03 * 1 made rising; a smaller one never ends above a larger one."""
    assert st.holm({"a": 0.02, "b": 0.01, "c": 0.03}) == {"a": 0.04, "b": 0.03, "c": 0.04}
    assert st.holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match="no p-value"):
        st.holm({"a": 1.5})


def test_convergence_says_how_many_more():
    """55 wins of 100: 1.96^2 * 0.25 / 0.05^2 = 384 prompts in all."""
    found = st.convergence({str(i): float(i % 100 < 55) for i in range(100)})
    assert found.curve[-1].n == 100
    assert [i.n for i in found.curve] == sorted({i.n for i in found.curve})
    assert found.more_to_decide == pytest.approx(284, abs=6)
    assert found.more_to_halve == 300
    assert st.convergence({str(i): float(i % 2) for i in range(20)}).more_to_decide is None
    assert st.convergence({str(i): float(i > 2) for i in range(60)}).more_to_decide == 0
