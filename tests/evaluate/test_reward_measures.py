"""Measures of a reward model by hand: order, rank correlation within prompts, calibration mended on other prompts than it was fitted on."""

from __future__ import annotations

import math

import pytest

from keel.evaluate.reward_measures import ScoredLabel, log_loss, measure


def pairs(n: int, margin: float, right: int) -> list[ScoredLabel]:
    """``n`` prompts with one pair each, claimed with ``margin``; the first ``right`` of every ten are ordered as people did."""
    return [
        ScoredLabel(f"p{i}", (margin, 0.0) if i % 10 < right else (0.0, margin), ((0, 1, 1.0),), category="ab"[i % 2]) for i in range(n)
    ]


def test_accuracy_goes_by_prompt_and_category():
    judged = [
        ScoredLabel("p", (2.0, 1.0), ((0, 1, 1.0), (1, 0, 1.0)), category="x"),
        ScoredLabel("q", (2.0, 1.0), ((0, 1, 0.2),), category="y"),
    ]
    found = measure(judged)
    assert found["pairs"] == 3
    assert found["accuracy"]["mean"] == pytest.approx(1 / 3)  # right, wrong, wrong (people prefer the second)
    assert found["accuracy"]["n"] == 2
    assert {k: v["mean"] for k, v in found["by_category"].items()} == {"x": 0.5, "y": 0.0}


def test_ties_are_not_judged_but_calibrated():
    found = measure([ScoredLabel(f"p{i}", (1.0, 1.0), ((0, 1, 0.5),)) for i in range(3)])
    assert "accuracy" not in found
    assert found["pairs"] == 3


def test_rank_correlations_are_within_prompts_of_three_and_more():
    same = ScoredLabel("p", (3.0, 2.0, 1.0), order=(30.0, 20.0, 10.0))
    off = ScoredLabel("q", (3.0, 1.0, 2.0), order=(-1.0, -2.0, -3.0))  # one of three pairs is wrong
    two = ScoredLabel("r", (0.0, 1.0), order=(2.0, 1.0))
    found = measure([same, off, two])
    assert found["kendall"]["mean"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["spearman"]["mean"] == pytest.approx((1 + 0.5) / 2)
    assert found["kendall"]["n"] == 2
    assert found["best_of_k"]["mean"] == 1.0
    assert found["accuracy"]["mean"] == pytest.approx((3 + 2 + 0) / 7)


def test_the_first_choice_may_be_one_of_several_best():
    tied = ScoredLabel("p", (1.0, 1.0, 0.0), order=(2.0, 1.0, 1.0))
    assert measure([tied])["best_of_k"]["mean"] == 0.5
    assert "best_of_k" not in measure([ScoredLabel("p", (1.0, 2.0, 3.0), order=(1.0, 1.0, 1.0))])


def test_temperature_scaling_is_told_on_prompts_it_was_not_fitted_on():
    judged = pairs(200, 6.0, 7)  # claims 99.8%, is right in 70%
    found = measure(judged)
    assert found["calibration"]["ece"] == pytest.approx(1 / (1 + math.exp(-6.0)) - 0.7, abs=1e-6)
    scaled = found["temperature_scaling"]
    assert scaled["prompts"] == scaled["calibration"]["n"] == 100
    assert scaled["temperature"] == pytest.approx(6.0 / math.log(0.7 / 0.3), rel=0.25)
    assert scaled["ece_after"] < 0.12 < scaled["ece_before"]
    assert "temperature_scaling" not in measure(judged[:5])


def test_the_log_loss_of_a_coin_and_of_a_sure_thing():
    assert log_loss([(0.0, 1.0), (0.0, 0.5)]) == pytest.approx(math.log(2.0))
    assert log_loss([(2.0, 1.0)]) == pytest.approx(math.log1p(math.exp(-2.0)))
    assert log_loss([(2.0, 0.25)]) == pytest.approx(0.25 * math.log1p(math.exp(-2.0)) + 0.75 * math.log1p(math.exp(2.0)))
    assert log_loss([(-900.0, 1.0)], temperature=3.0) == pytest.approx(300.0)
