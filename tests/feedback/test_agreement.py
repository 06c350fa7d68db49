"""Coefficients of agreement against hand-computed and published numbers."""

from __future__ import annotations

import math

import pytest

from keel.feedback.agreement import agreement, cohen_kappa, fleiss_kappa, krippendorff_alpha, raw_agreement
from keel.types import Candidate, Comparison, Message, Prompt

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": four observers, twelve units, missing labels
OBSERVERS = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")
UNITS = [[int(v) for v in unit if v != "."] for unit in zip(*(o.split() for o in OBSERVERS), strict=True)]

# the usual worked example of Fleiss' kappa: ten subjects, fourteen raters, five categories
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_raw_agreement_is_a_mean_over_units_of_agreeing_pairs() -> None:
    # unit 1: 1 of 3 pairs agrees; unit 2: all; the unit with one label says nothing
    assert raw_agreement([["a", "a", "b"], ["b", "b"], ["a"]]) == pytest.approx((1 / 3 + 1) / 2, abs=1e-12)
    assert math.isnan(raw_agreement([["a"]]))


def test_cohen_kappa_of_the_textbook_table() -> None:
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4, abs=1e-12)


def test_weighted_cohen_kappa_by_hand() -> None:
    a, b = [1, 2, 3, 3], [1, 3, 3, 1]
    # linear: observed costs 0, 1, 0, 2 -> 3/4; expected: sum over all 16 pairs |a - b| / 16
    # a=1: 0+2+2+0 = 4; a=2: 1+1+1+1 = 4; a=3 (twice): 2+0+0+2 = 4 each -> 16/16 = 1
    assert cohen_kappa(a, b, "linear") == pytest.approx(1 - 0.75, abs=1e-12)
    # quadratic: observed 0, 1, 0, 4 -> 5/4; expected a=1: 8, a=2: 4, a=3: 8 and 8 -> 28/16
    assert cohen_kappa(a, b, "quadratic") == pytest.approx(1 - 1.25 / 1.75, abs=1e-12)


def test_fleiss_kappa_published() -> None:
    # P mean = 0.378, P_e = 0.213
    assert fleiss_kappa(FLEISS) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_with_ragged_items_by_hand() -> None:
    # agreements 1 and 1/3, mean 2/3; shares 4/5 and 1/5, expected 0.68; the item with one label is left out
    assert fleiss_kappa([[2, 0], [2, 1], [0, 1]]) == pytest.approx((2 / 3 - 0.68) / 0.32, abs=1e-12)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_alpha_published(level: str, alpha: float) -> None:
    assert krippendorff_alpha(UNITS, level) == pytest.approx(alpha, abs=6e-4)


def test_krippendorff_alpha_of_the_other_published_table() -> None:
    coders = ("* * * * * 3 4 1 2 1 1 3 3 * 3", "1 * 2 1 3 3 4 3 * * * * * * *", "* * 2 1 3 4 4 * 2 1 1 3 3 * 4")
    units = [[int(v) for v in unit if v != "*"] for unit in zip(*(c.split() for c in coders), strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.691, abs=5e-4)
    assert krippendorff_alpha(units, "interval") == pytest.approx(0.811, abs=5e-4)


def test_alpha_by_hand() -> None:
    # two annotators, labels (0,0) (1,1) (0,1): o = 2 off-diagonal, n_0 = n_1 = 3, expected 2 * 3 * 3 / 5 = 3.6
    assert krippendorff_alpha([[0, 0], [1, 1], [0, 1]]) == pytest.approx(1 - 2 / 3.6, abs=1e-12)


def test_nothing_to_disagree_about_is_nan() -> None:
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))


def test_cohen_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="same number of labels"):
        cohen_kappa(["a"], ["a", "b"])


def vote(annotator: str, outcome: str, swapped: bool = False, order: tuple[int, int] = (0, 1), item: str = "p") -> Comparison:
    pair = (Candidate("a", "one"), Candidate("b", "two"))
    prompt = Prompt(item, (Message("user", "?"),))
    return Comparison(f"{item}-{annotator}", prompt, pair[::-1] if swapped else pair, outcome, 0.5, annotator, "pairwise-v1", order)


def test_comparisons_in_either_order_are_one_item() -> None:
    found = agreement([vote("x", "first"), vote("y", "second", swapped=True), vote("x", "tie", item="q"), vote("y", "first", item="q")])
    assert (found.items, found.votes, found.annotators) == (2, 4, 2)
    assert found.raw == 0.5  # item p: both prefer a; item q: a tie against a
    assert found.tie_rate == 0.25
    assert found.cohen == pytest.approx(0.0, abs=1e-12)  # x: +1, 0; y: +1, +1: p_o = 1/2, p_e = 1/2 * 1


def test_left_rate_counts_what_was_shown_on_the_left() -> None:
    votes = [vote("x", "first", order=(0, 1)), vote("y", "first", order=(1, 0)), vote("z", "second", order=(1, 0)), vote("w", "tie")]
    assert agreement(votes).left_rate == pytest.approx(2 / 3)
    assert agreement([*votes, vote("v", "first", order=(0, 1))]).left_rate == pytest.approx(3 / 4)


def test_cohen_of_several_is_weighed_by_common_items() -> None:
    """x and y share two items and agree: 1. x and z share four, half of them agreed with z always first: 0. y and z share two: 0."""
    said = {"x": "1212", "y": "12  ", "z": "1111"}
    names = {"1": "first", "2": "second"}
    votes = [vote(who, names[o], item=f"i{i}") for who, outcomes in said.items() for i, o in enumerate(outcomes) if o != " "]
    assert agreement(votes).cohen == pytest.approx((1.0 * 2 + 0.0 * 4 + 0.0 * 2) / 8)
    assert math.isnan(agreement([vote("x", "first"), vote("y", "first")]).cohen), "nothing to disagree about"
    assert math.isnan(agreement([]).tie_rate)
    assert math.isnan(agreement([vote("x", "tie")]).left_rate)


def test_repeats_of_one_person_are_no_agreement_between_people() -> None:
    """One who repeats 50 items agrees with nobody; with an unrelated second one the numbers are those of the two."""
    alone = [vote("x", "first" if i % 2 else "second", item=f"i{i}") for i in range(50)]
    found = agreement([*alone, *alone])
    assert (found.annotators, found.votes, found.repeats) == (1, 50, 50)
    assert all(math.isnan(x) for x in (found.raw, found.cohen, found.fleiss, found.alpha))
    other = [vote("y", "first" if i % 4 < 2 else "second", item=f"i{i}") for i in range(48)]
    both = agreement([*alone[:48], *alone[:48], *other])
    assert both.cohen == pytest.approx(0.0, abs=1e-12)
    assert both.raw == pytest.approx(0.5)
    assert both.alpha == agreement([*alone[:48], *other]).alpha


def test_the_first_vote_of_a_person_counts() -> None:
    found = agreement([vote("x", "first"), vote("x", "tie", order=(1, 0)), vote("y", "first")])
    assert (found.raw, found.tie_rate, found.left_rate, found.repeats) == (1.0, 0.0, 1.0, 1)
