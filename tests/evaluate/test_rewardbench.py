"""RewardBench 2's scores by hand."""

from __future__ import annotations

import math

import pytest

from keel.evaluate.reward_measures import ScoredLabel
from keel.evaluate.rewardbench import rewardbench2, ties_score


def item(name: str, right: list[float], wrong: list[float], subset: str = "Ties") -> ScoredLabel:
    return ScoredLabel(name, (*right, *wrong), order=(-1.0,) * len(right) + (-2.0,) * len(wrong), category=subset, unit_id=name)


def test_the_subset_of_ties_by_hand() -> None:
    judged = [
        item("ref:1", [5.0], [2.0, 1.0]),  # leads by 3
        item("tied:1", [5.0, 4.0], [2.0]),  # 1 apart, leads by 2
        item("ref:2", [1.0], [2.0]),  # wrong by 1
        item("tied:2", [9.0, 6.0], [4.0]),  # 3 apart, leads by 2
    ]
    found = ties_score(judged)
    assert (found["ref"], found["tied"], found["apart"], found["apart_in_both"]) == (0.5, 1.0, 0.5, 0.5)
    margin = (math.tanh(2 / 1 - 1) + math.tanh(-1 / 3 - 1)) / 2
    assert found["margin"] == pytest.approx(margin)
    assert found["score"] == pytest.approx(0.3 * 0.5 + 0.3 * 1.0 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margin)


def test_a_lead_that_holds_for_the_many_and_not_for_the_one_is_half_of_it() -> None:
    found = ties_score([item("ref:1", [3.0], [2.5]), item("tied:1", [5.0, 4.0], [2.0])])
    assert (found["apart"], found["apart_in_both"]) == (1.0, 0.0)


def test_right_answers_of_one_score_are_not_apart() -> None:
    assert ties_score([item("ref:1", [3.0], [2.0]), item("tied:1", [5.0, 5.0], [2.0])])["margin"] == 1.0


def test_the_mean_is_over_subsets() -> None:
    ties = [item("ref:1", [3.0], [2.0]), item("tied:1", [5.0, 5.0], [2.0])]
    maths = [item("7", [1.0], [0.0, 0.5], "Math"), item("8", [1.0], [1.0, 0.5], "Math")]
    found = rewardbench2(ties + maths)["rewardbench2"]
    assert found["subsets"] == pytest.approx({"Math": 0.75, "Ties": 1.01})
    assert found["mean"] == pytest.approx(0.88)
    assert rewardbench2(maths) == {}
