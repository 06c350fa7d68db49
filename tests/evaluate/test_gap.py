"""The gap of sets by role: by hand, against Welch's published example, coverage over simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.gap import gap, gaps
from keel.evaluate.statistics import Estimate, change_of_shares, clustered, independent_difference, wilson
from keel.evaluate.statistics.distributions import t_quantile


def test_welch_by_hand() -> None:
    """Errors 3 and 4 of 5 and 9 clusters: sqrt(9 + 16) = 5, df = 25^2 / (81 / 4 + 256 / 8) = 11.9617."""
    found = independent_difference(Estimate(10.0, 3.0, 5), Estimate(12.0, 4.0, 9))
    half = 5 * t_quantile(0.975, 625 / (81 / 4 + 256 / 8))
    assert (found.mean, found.n) == (2.0, 5)
    assert found.high - found.mean == pytest.approx(half)
    assert found.mean - found.low == pytest.approx(half)


def test_one_cluster_has_no_ends_and_none_spread_is_exact() -> None:
    assert independent_difference(Estimate(1.0, 0.0, 1), Estimate(2.0, 1.0, 5)).high == math.inf
    assert independent_difference(Estimate(1.0, 0.0, 3), Estimate(2.0, 0.0, 3)).to_json() == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 3}


def test_prompts_of_one_document_are_one_cluster() -> None:
    inside = {f"a{i}": float(i % 2) for i in range(8)}
    outside = {f"b{i}": float(i < 4) for i in range(8)}
    alone = gap(inside, outside)
    together = gap(inside, outside, {f"b{i}": "one" if i < 4 else "two" for i in range(8)})
    assert alone["gap"]["mean"] == together["gap"]["mean"] == 0.0
    assert together["out"]["n"] == 2
    assert together["gap"]["high"] > alone["gap"]["high"]


def row(name: str, before: float | None, after: float | None) -> PromptAnswers:
    sides = [(Answer("x", rules={"r": v} if v is not None else {}),) for v in (before, after)]
    return PromptAnswers(name, "?", sides[0], sides[1])


def test_gaps_by_scorer_and_set() -> None:
    inside = [row("i1", 0.0, 1.0), row("i2", 0.0, 1.0)]
    outside = {"far": [row("f1", 1.0, 0.0), row("f2", 0.0, 1.0)], "mute": [row("m", None, None)]}
    found = gaps(inside, outside)["r"]
    assert found["win_rate"]["in"]["mean"] == 1.0
    assert found["win_rate"]["gap"]["mean"] == -0.5
    assert found["score"]["out"]["mean"] == 0.5
    assert found["baseline_score"]["gap"]["mean"] == 0.5
    assert list(found["win_rate"]["by_set"]) == ["far"]
    assert found["win_rate"]["unscored"] == ["mute"]


def test_a_change_of_shares_stays_inside_and_is_no_certainty() -> None:
    assert change_of_shares([0.0] * 10).high == wilson(0, 10).high
    assert change_of_shares([1.0] * 4).to_json() == {"mean": 1.0, "low": pytest.approx(wilson(4, 4).low), "high": 1.0, "n": 4}
    some = change_of_shares([1.0, 1.0, 1.0, 0.0])
    assert some.high == 1.0
    assert some.low < 0.75


def test_the_interval_holds_the_truth() -> None:
    """Clusters of four prompts that share half of their spread: 95% +- 2 points of 1,000 simulations; each prompt by itself would not."""
    rng = np.random.default_rng(0)
    held = {"clusters": 0, "alone": 0}
    for _ in range(1000):
        sides = []
        for n, mean in ((12, 0.0), (8, 0.3)):
            sides.append(mean + rng.normal(size=(n, 1)) + rng.normal(size=(n, 4)))
        for name, estimates in (
            ("clusters", [clustered(s.sum(1).tolist(), [4.0] * len(s)) for s in sides]),
            ("alone", [clustered(s.ravel().tolist()) for s in sides]),
        ):
            i = independent_difference(*estimates)
            held[name] += i.low <= 0.3 <= i.high
    assert 930 <= held["clusters"] <= 970
    assert held["alone"] < 850
