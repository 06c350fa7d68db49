from __future__ import annotations

import math

import numpy as np
import pytest

from keel.evaluate import statistics as st
from keel.evaluate.statistics import Interval


def test_pair_score_averages_all_pairings_and_counts_ties_half():
    assert st.pair_score([1.0, 3.0], [2.0, 3.0]) == (1 + 0 + 1 + 0.5) / 4
    assert st.pair_score([0.0], [0.0]) == 0.5


def test_wilson_hand_computed():
    # z = 1.959964, p = 0.8, n = 10: centre (0.8 + 0.192073) / 1.384146, half 1.959964 / 1.384146 * sqrt(0.016 + 0.0096036)
    interval = st.wilson(8, 10)
    assert interval.mean == 0.8
    assert interval.low == pytest.approx(0.490162, abs=1e-6)
    assert interval.high == pytest.approx(0.943318, abs=1e-6)
    assert st.wilson(0, 5).low == 0.0
    assert st.wilson(5, 5).high == 1.0
    assert st.wilson(5, 5).low == pytest.approx(1 / (1 + 1.959964**2 / 5), abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes: float, n: int):
    with pytest.raises(ValueError, match="no proportion"):
        st.wilson(successes, n)


def test_bootstrap_matches_the_exact_resampling_distribution():
    # Two clusters 0 and 1: a resample has mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4. Quantiles 0.3 and 0.7 both lie at 1/2.
    interval = st.cluster_bootstrap([0.0, 1.0], [1.0, 1.0], draws=4000, level=0.4)
    assert interval == Interval(0.5, 0.5, 0.5, 2)
    wide = st.cluster_bootstrap([0.0, 1.0], [1.0, 1.0], draws=4000, level=0.95)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_bootstrap_is_a_function_of_data_and_seed():
    values = [math.sin(i) for i in range(30)]
    same = [st.cluster_bootstrap(values, [1.0] * 30, draws=500, seed=seed) for seed in (3, 3, 4)]
    assert same[0] == same[1]
    assert same[0] != same[2]


def test_bootstrap_draws_whole_clusters():
    # 40 values in 4 clusters that agree within themselves: the interval is that of 4 values, far wider than that of 40.
    clustered = st.cluster_bootstrap([0.0, 0.0, 10.0, 10.0], [10.0] * 4, draws=2000)
    separate = st.cluster_bootstrap([0.0] * 20 + [1.0] * 20, [1.0] * 40, draws=2000)
    assert clustered.mean == separate.mean == 0.5
    assert clustered.high - clustered.low > 2.5 * (separate.high - separate.low)
    assert clustered.n == 4


def test_bootstrap_weighs_clusters_by_their_counts():
    assert st.cluster_bootstrap([3.0, 0.0], [3.0, 1.0], draws=100).mean == 0.75
    assert st.cluster_bootstrap([3.0, 0.0], [3.0, 0.0], draws=100).n == 1


def test_bootstrap_refuses_nothing_and_non_finite():
    with pytest.raises(ValueError, match="no values"):
        st.cluster_bootstrap([], [])
    with pytest.raises(ValueError, match="finite"):
        st.cluster_bootstrap([math.nan], [1.0])
    with pytest.raises(ValueError, match="level"):
        st.cluster_bootstrap([1.0], [1.0], level=1.0)


def test_bootstrap_interval_covers_the_truth():
    # 120 fixed data sets of 40 clusters, 2 values each that share the cluster's own level: 95% intervals should hold the true mean 0.6
    # nearly always; an interval that ignored the clusters would hold it in about 4 of 5.
    rng = np.random.default_rng(5)
    covered = naive = 0
    for trial in range(120):
        level = rng.random(40) < 0.6
        values = np.stack([level, level]).astype(float)
        interval = st.cluster_bootstrap(values.sum(0).tolist(), [2.0] * 40, draws=400, seed=trial)
        flat = st.cluster_bootstrap(values.ravel().tolist(), [1.0] * 80, draws=400, seed=trial)
        covered += interval.low <= 0.6 <= interval.high
        naive += flat.low <= 0.6 <= flat.high
    assert 108 <= covered <= 120
    assert naive <= covered - 5


def test_win_rate_claims_no_certainty_from_unanimous_prompts():
    interval = st.win_rate({"a": 1.0, "b": 1.0, "c": 1.0})
    assert interval == st.wilson(3, 3)
    assert interval.low < 0.5


def test_win_rate_does_not_depend_on_the_order_of_prompts():
    shares = {f"p{i}": (i % 5) / 4 for i in range(20)}
    assert st.win_rate(shares) == st.win_rate(dict(reversed(shares.items())))


def test_pooled_win_rate_shares_prompts_over_seeds():
    one = {f"p{i}": float(i % 2) for i in range(40)}
    alone = st.win_rate(one)
    pooled = st.pooled_win_rate([one, one, one])
    assert pooled.n == 40
    assert pooled.mean == alone.mean == 0.5
    # the same answers three times are no new information: the interval is not narrower
    assert pooled.high - pooled.low == pytest.approx(alone.high - alone.low, abs=0.03)


def test_pooled_win_rate_hand_computed_mean():
    assert st.pooled_win_rate([{"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.5}]).mean == 0.5
    assert st.pooled_win_rate([{"a": 1.0}, {"a": 0.5, "b": 0.0}]).mean == 0.5
    assert st.pooled_win_rate([{"a": 1.0}, {"a": 1.0}]) == st.wilson(1, 1)


def test_mean_and_paired_difference():
    before, after = {"a": [1.0, 3.0], "b": [0.0], "c": []}, {"a": [4.0], "b": [1.0, 2.0], "d": [9.0]}
    assert st.mean_interval(before, draws=50).mean == (2.0 + 0.0) / 2
    difference = st.paired_difference(before, after)
    assert difference.mean == (2.0 + 1.5) / 2
    assert difference.n == 2
    assert difference.high - difference.mean == pytest.approx(12.7062 * 0.25, abs=1e-3)  # t(1) = 12.7062, gaps 2 and 1.5


def test_ranks_share_ties():
    assert st.ranks([10.0, 30.0, 20.0, 20.0]).tolist() == [1.0, 4.0, 2.5, 2.5]


def test_spearman_and_kendall_hand_computed():
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]
    assert st.spearman(x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))  # squared rank differences 0, 1, 1, 0
    assert st.kendall(x, y) == pytest.approx((5 - 1) / 6)
    # ties: x = 1 1 2, y = 1 2 2. One concordant pair, two untied in x, two untied in y: tau-b = 1/2.
    assert st.kendall([1.0, 1.0, 2.0], [1.0, 2.0, 2.0]) == pytest.approx(0.5)
    # three pairs untied in x, all concordant; six untied in y
    assert st.kendall([1.0, 1.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(3 / math.sqrt(3 * 6))
    assert st.spearman([1.0, 1.0, 2.0], [1.0, 2.0, 2.0]) == pytest.approx(0.5)
    assert st.spearman([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == pytest.approx(-1.0)


def test_correlation_of_a_constant_is_not_defined():
    assert st.spearman([1.0, 1.0], [1.0, 2.0]) is None
    assert st.kendall([1.0, 2.0], [5.0, 5.0]) is None
    with pytest.raises(ValueError, match="against"):
        st.spearman([1.0], [1.0, 2.0])
