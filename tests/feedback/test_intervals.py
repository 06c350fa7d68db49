"""Coefficients from tables are those of the plain forms; intervals cover, and people can be resampled too."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keel.feedback.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, raw_agreement
from keel.feedback.intervals import against_others, agreement_intervals, coefficient, cohen_intervals, kappa_of_tables, verdict
from keel.feedback.reliability.votes import Votes, from_arrays
from keel.simulate.crowds import crowd

ORDER = {0: 1, 1: -1, 2: 0}
CLASSES = ("first", "second", "tie")


def three(seed: int, **changes: int) -> Votes:
    votes, _ = crowd(seed, classes=3, **changes)  # type: ignore[arg-type]
    return from_arrays(votes.task_V, votes.annotator_V, votes.label_V, CLASSES, tasks=len(votes.tasks), annotators=len(votes.annotators))


def test_values_are_those_of_the_plain_forms() -> None:
    for seed in range(5):
        votes = three(seed, tasks=40, people=8, per_task=3)
        keep = np.random.default_rng(seed).random(len(votes)) < 0.8  # items of one, two, three labels
        votes = votes.where(keep)
        units: dict[int, list[int]] = {}
        for t, k in zip(votes.task_V, votes.label_V):
            units.setdefault(int(t), []).append(ORDER[int(k)])
        found = agreement_intervals(votes, draws=100)
        lists = list(units.values())
        assert found["raw"].value == pytest.approx(raw_agreement(lists))
        assert found["fleiss"].value == pytest.approx(fleiss_kappa([[u.count(v) for v in (-1, 0, 1)] for u in lists]))
        assert found["alpha"].value == pytest.approx(krippendorff_alpha(lists))
        assert found["alpha_ordinal"].value == pytest.approx(krippendorff_alpha(lists, "ordinal"))


def test_cohen_of_two_and_against_all_others() -> None:
    votes = from_arrays([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 0, 1, 1, 0, 2, 0, 0, 1, 1], CLASSES)
    (pair,) = cohen_intervals(votes, [("0", "1")]).values()
    assert pair.value == pytest.approx(cohen_kappa([0, 1, 2, 1], [0, 1, 0, 1]))
    assert pair.n == 4
    mine = against_others(votes)["0"]  # on task 1 the others are even; on 0, 2, 3 they say 0, 0, 1
    assert mine.n == 3
    assert mine.value == pytest.approx(cohen_kappa([0, 2, 1], [0, 0, 1]))
    assert math.isnan(kappa_of_tables(np.array([[[3.0, 0], [0, 0]]]))[0])
    with pytest.raises(KeyError):
        cohen_intervals(votes, [("0", "nobody")])


def test_intervals_cover_what_many_items_say() -> None:
    votes = three(99, tasks=3000)
    truth = agreement_intervals(votes, draws=100)["fleiss"].value
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        some = rng.choice(3000, 100, replace=False)
        found = agreement_intervals(votes.where(np.isin(votes.task_V, some)), draws=200, seed=seed)["fleiss"]
        inside += found.low <= truth <= found.high
    assert inside >= 50  # 95% of 60 are 57; fewer than 50 come by chance once in ten thousand


def test_items_without_company_widen_nothing_and_people_do() -> None:
    votes = three(4, tasks=150, people=8)
    by_items, by_both = agreement_intervals(votes), agreement_intervals(votes, people=True)
    assert by_both["alpha"].value == by_items["alpha"].value
    assert by_both["alpha"].high - by_both["alpha"].low > by_items["alpha"].high - by_items["alpha"].low
    assert agreement_intervals(votes, seed=1)["alpha"] != by_items["alpha"]
    assert agreement_intervals(votes) == by_items


def test_a_person_drawn_twice_weighs_two_and_is_not_compared_with_themselves() -> None:
    counts = np.array([[[2.0, 1.0], [3.0, 0.0]]])  # task 0: one of weight 2 says 0, another 1; task 1: the same two say 0
    squares = np.array([[[4.0, 1.0], [5.0, 0.0]]])
    ones = np.ones((1, 2))
    assert coefficient("raw", counts, ones, squares)[0] == pytest.approx((0.0 + 1.0) / 2)
    # coincidences: task 0 has 2 of (0, 1) and 2 of (1, 0) over (9 - 5) / 3; totals are 5 and 1 of 6
    observed, expected = 2 * 2 / (4 / 3), 2 * 5 * 1 / (6 - 1)
    assert coefficient("alpha", counts, ones, squares)[0] == pytest.approx(1 - observed / expected)


def test_repeats_are_no_agreement_between_people() -> None:
    alone = from_arrays(list(range(50)) * 2, [0] * 100, [0, 1] * 25 * 2, CLASSES, repeat_V=[0] * 50 + [1] * 50)
    found = agreement_intervals(alone, draws=100)
    assert all(e.n == 0 and e.verdict == "not known" and not e.sure for e in found.values())
    assert against_others(alone)["0"].verdict == "not known"


def test_bands() -> None:
    assert [verdict(x) for x in (0.61, 0.6, 0.41, 0.4, -0.2, math.nan)] == ["good", "fair", "fair", "poor", "poor", "not known"]
    agreed = from_arrays(np.repeat(np.arange(200), 3), [0, 1, 2] * 200, np.repeat(np.arange(200) % 3, 3), CLASSES)
    assert agreement_intervals(agreed)["alpha"].sure
    with pytest.raises(ValueError, match="at least 100"):
        agreement_intervals(agreed, draws=10)
