from __future__ import annotations

import math

import pytest

from keel.evaluate import measures as me
from keel.evaluate.statistics import wilson


def test_words_of_two_scripts():
    assert me.words("Don't panic, 42 times!") == ["don't", "panic", "42", "times"]
    assert me.words("请把 order 号，发给我。") == ["请", "把", "order", "号", "发", "给", "我"]
    assert me.words("ABC中文def") == ["abc", "中", "文", "def"]
    assert me.words("snake_case … ---") == ["snake", "case"]


def test_distinct_counts_over_the_whole_set():
    # words: a b a | a b -> {a, b} of 5; pairs: ab ba | ab -> {ab, ba} of 3: no pair spans two answers
    assert me.distinct(["a b a", "A b"], 1) == 2 / 5
    assert me.distinct(["a b a", "A b"], 2) == 2 / 3
    assert me.distinct(["好好学习"], 1) == 3 / 4
    assert me.distinct(["...", ""], 1) is None
    assert me.distinct(["word"], 2) is None


def test_repetition():
    assert me.repetition("a b c d e") == 0.0
    assert me.repetition("x y x y x y", n=2) == 1 - 2 / 5
    assert me.repetition("short", n=4) == 0.0


def test_describe_leaves_out_what_is_not_finite():
    d = me.describe([1.0, 3.0, math.nan, 5.0, math.inf])
    assert d is not None
    assert (d.mean, d.min, d.median, d.max, d.n) == (3.0, 1.0, 3.0, 5.0, 3)
    assert d.std == pytest.approx(math.sqrt(8 / 3))
    assert me.describe([math.nan]) is None


def test_calibration_hand_computed():
    # bins of width 0.5: (0, .5] holds .2 and .4 (outcomes 0, 1), (.5, 1] holds .9 (outcome 1)
    c = me.calibration([0.2, 0.4, 0.9], [0.0, 1.0, 1.0], bins=2)
    assert c.ece == pytest.approx(2 / 3 * abs(0.3 - 0.5) + 1 / 3 * abs(0.9 - 1.0))
    assert [(b.low, b.high, b.n) for b in c.bins] == [(0.0, 0.5, 2), (0.5, 1.0, 1)]
    assert c.bins[0].confidence == pytest.approx(0.3)
    assert c.bins[0].accuracy == 0.5
    assert me.calibration([0.0, 1.0], [0.0, 1.0]).ece == 0.0


def test_calibration_refuses_bad_input():
    with pytest.raises(ValueError, match="at least one"):
        me.calibration([], [])
    with pytest.raises(ValueError, match="lie in"):
        me.calibration([1.2], [1.0])


def test_pair_calibration_folds_to_the_preferred_answer():
    # margin ln 3 -> p = 0.75, right; margin -ln 3 -> the model prefers the rejected one with 0.75, wrong: half right at 0.75
    c = me.pair_calibration([math.log(3), -math.log(3)])
    assert c.n == 2
    assert len(c.bins) == 1
    assert (c.bins[0].confidence, c.bins[0].accuracy) == (pytest.approx(0.75), 0.5)
    assert c.ece == pytest.approx(0.25)
    assert me.pair_calibration([0.0]).ece == 0.0  # undecided, half right


def test_pair_calibration_is_the_same_when_pairs_are_written_the_other_way_round():
    margins, labels = [0.3, -1.2, 2.0, 0.1], [1.0, 0.8, 1.0, 0.2]
    turned = me.pair_calibration([-m for m in margins], [1 - y for y in labels])
    assert turned.ece == pytest.approx(me.pair_calibration(margins, labels).ece, abs=1e-12)


def test_pair_accuracy_counts_ties_and_leaves_out_undecided_people():
    interval = me.pair_accuracy([1.0, -2.0, 0.0, 3.0], [1.0, 0.2, 0.9, 0.5])
    assert interval == wilson(2.5, 3)


def test_pair_accuracy_clusters_by_prompt():
    interval = me.pair_accuracy([1.0, 1.0, 1.0, -1.0], prompt_ids=["a", "a", "a", "b"], draws=300)
    assert (interval.mean, interval.n) == (0.75, 2)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert me.pair_accuracy([1.0, 1.0], prompt_ids=["a", "b"]) == wilson(2, 2)


def test_temperature_brings_back_the_truth():
    # P(label) at margin m is sigmoid(m / 2.5) exactly (soft labels): the minimum is at T = 2.5
    margins = [-3.0, -1.0, 0.5, 2.0, 4.0]
    labels = me.pair_probabilities(margins, 2.5).tolist()
    assert me.fit_temperature(margins, labels) == pytest.approx(2.5, rel=1e-9)


def test_temperature_lowers_the_loss_and_ends_at_its_limits():
    margins, labels = [4.0, 3.0, -2.0, 5.0, -4.0], [1.0, 0.0, 0.0, 1.0, 1.0]

    def loss(temperature: float) -> float:
        p = me.pair_probabilities(margins, temperature)
        return -sum(y * math.log(q) + (1 - y) * math.log(1 - q) for y, q in zip(labels, p))

    best = me.fit_temperature(margins, labels)
    assert loss(best) < min(loss(best * 1.05), loss(best / 1.05))
    assert me.fit_temperature([1.0, 2.0]) == 0.01  # separated: always surer
    assert me.fit_temperature([1.0, 2.0], [0.0, 0.0]) == 100.0  # wrong way round: no confidence is right


def test_pair_probabilities_do_not_overflow():
    assert me.pair_probabilities([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]


def test_perplexity_and_retention():
    assert me.perplexity(-math.log(2) * 10, 10) == pytest.approx(2.0)
    kept = me.retention(-math.log(4) * 8, -math.log(5) * 8, 8)
    assert (kept.perplexity_before, kept.perplexity_after, kept.ratio) == pytest.approx((4.0, 5.0, 1.25))
    with pytest.raises(ValueError, match="at least one"):
        me.perplexity(-1.0, 0)
