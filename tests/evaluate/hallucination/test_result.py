"""Ratios with intervals, rates by type and what they weigh."""

from __future__ import annotations

import pytest

from keel.evaluate.hallucination.result import Claim, TypeRate, overall, ratio, type_rates
from keel.evaluate.statistics import Interval, cluster_bootstrap, wilson


def test_a_share_of_single_answers_has_wilsons_interval() -> None:
    assert ratio([("a", 1.0, 1.0), ("b", 0.0, 1.0), ("c", 0.0, 1.0)], 200) == wilson(1, 3)


def test_a_ratio_of_sums_is_bootstrapped_over_clusters() -> None:
    """Image a: 1 of 2 and 0 of 2; image b: 1 of 1; image c has nothing to count."""
    found = ratio([("a", 1.0, 2.0), ("b", 1.0, 1.0), ("a", 0.0, 2.0), ("c", 0.0, 0.0)], 200)
    assert found == cluster_bootstrap([1.0, 1.0], [4.0, 1.0], draws=200)
    assert found is not None
    assert found.mean == 0.4
    assert found.n == 2


def test_clusters_that_agree_claim_no_certainty() -> None:
    found = ratio([("a", 1.0, 2.0), ("b", 2.0, 4.0)], 200)
    assert found == wilson(1, 2)


def test_ratios_above_one_have_an_interval_too() -> None:
    found = ratio([("a", 2.0, 1.0)], 200)
    assert found == Interval(2.0, 2.0, 2.0, 1)


def test_nothing_to_count_is_no_rate() -> None:
    assert ratio([("a", 0.0, 0.0)], 200) is None
    assert ratio([], 200) is None


def test_silence_has_no_rate_and_no_coverage() -> None:
    claims = [Claim("1", "object", True, None), Claim("2", "object", False, None)]
    found = type_rates(claims, 200)["object"]
    assert found.rate is None
    assert found.coverage is not None
    assert found.coverage.mean == 0.0


def test_rates_by_type() -> None:
    """Of three untrue statements one is affirmed, one denied, one not answered: 1/2. Of two true ones one is affirmed: 1/2."""
    affirmed = [(False, True), (False, False), (False, None), (True, True), (True, None)]
    claims = [Claim(str(i), "relation", true, said) for i, (true, said) in enumerate(affirmed)]
    found = type_rates(claims, 200)["relation"]
    assert found.rate == wilson(1, 2)
    assert found.coverage == wilson(1, 2)


def test_the_overall_rate_weighs_object_attribute_relation() -> None:
    def at(x: float, y: float) -> TypeRate:
        return TypeRate(Interval(x, x, x, 1), Interval(y, y, y, 1))

    types = {"object": at(0.1, 0.9), "attribute": at(0.2, 0.5), "relation": at(0.4, 1.0), "knowledge": at(1.0, 0.0)}
    found = overall(types)
    assert found is not None
    assert found["rate"] == pytest.approx(0.5 * 0.1 + 0.3 * 0.2 + 0.2 * 0.4)
    assert found["coverage"] == pytest.approx(0.5 * 0.9 + 0.3 * 0.5 + 0.2 * 1.0)


def test_there_is_no_overall_rate_where_a_type_is_missing() -> None:
    one = TypeRate(Interval(0, 0, 0, 1), Interval(0, 0, 0, 1))
    assert overall({"object": one, "attribute": one}) is None
    assert overall({"object": one, "attribute": one, "relation": TypeRate(None, one.coverage)}) is None
