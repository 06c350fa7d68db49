"""Votes to pairs: labels, weights and margins by hand."""

from __future__ import annotations

import pytest

from keel.core.errors import DataError
from keel.feedback.aggregate import aggregate, counts, left_out
from keel.feedback.config import AggregateConfig
from keel.types import Candidate, Comparison, Message, Prompt

A, B, C = Candidate("a", "one"), Candidate("b", "two"), Candidate("c", "三")


def votes(
    outcomes: str, pair: tuple[Candidate, Candidate] = (A, B), prompt_id: str = "p", strength: float = 0.5, by: str = "ann"
) -> list[Comparison]:
    """``"112="`` = two votes for the first, one for the second, a tie."""
    prompt, name = Prompt(prompt_id, (Message("user", prompt_id),)), {"1": "first", "2": "second", "=": "tie"}
    return [
        Comparison(f"{prompt_id}{pair[1].candidate_id}{i}", prompt, pair, name[o], strength, f"{by}{i}", "pairwise-v1", (0, 1))
        for i, o in enumerate(outcomes)
    ]


def test_soft_label_is_the_share_of_votes_with_ties_half() -> None:
    (pair,) = aggregate(votes("112="))
    assert (pair.chosen[0].text, pair.rejected[0].text) == ("one", "two")
    assert pair.label == pytest.approx(2.5 / 4)
    assert pair.margin == 0.5
    assert pair.chosen[0].role == "assistant"


def test_the_second_candidate_can_win() -> None:
    (pair,) = aggregate(votes("221"))
    assert (pair.chosen[0].text, pair.label) == ("two", pytest.approx(2 / 3))


def test_records_may_hold_an_item_in_either_order() -> None:
    """Two votes for "one" and one for "two", in records of both orders: each is counted on the side that it means."""
    cast = votes("1", (A, B)) + votes("21", (B, A), by="bob")
    (pair,) = aggregate(cast)
    assert (pair.chosen[0].text, pair.label) == ("one", pytest.approx(2 / 3))
    assert counts(cast, (pair,)) == {"for": 2, "against": 1, "tie": 0, "left_out": 0}
    even = votes("12", (B, A))
    assert left_out(even, ())
    assert not left_out(even, aggregate(even, AggregateConfig(ties="keep")))


def test_smoothing_by_hand() -> None:
    (pair,) = aggregate(votes("111"), AggregateConfig(smoothing=1.0))
    assert pair.label == pytest.approx(4 / 5)


def test_ties_are_a_share_of_what_is_smoothed_too() -> None:
    """Two wins, a loss, a tie and one made-up vote for each side: 3.5 of 6 and 1 of 6."""
    (pair,) = aggregate(votes("112="), AggregateConfig(smoothing=1.0))
    assert (pair.label, pair.tie) == (pytest.approx(3.5 / 6), pytest.approx(1 / 6))
    (plain,) = aggregate(votes("112="))
    assert (plain.label, plain.tie, plain.weight) == (2.5 / 4, 0.25, 1.0)


def test_a_majority_is_no_tie_and_an_even_vote_is_one() -> None:
    (most,) = aggregate(votes("112="), AggregateConfig(label="majority"))
    (even,) = aggregate(votes("12"), AggregateConfig(label="majority", ties="keep"))
    assert [(p.label, p.tie) for p in (most, even)] == [(1.0, 0.0), (0.5, 1.0)]


def test_of_nothing_comes_nothing() -> None:
    assert aggregate([]) == ()


def test_majority_rounds() -> None:
    (pair,) = aggregate(votes("112="), AggregateConfig(label="majority", ties="keep"))
    assert pair.label == 1.0
    (even,) = aggregate(votes("12"), AggregateConfig(label="majority", ties="keep"))
    assert even.label == 0.5


def test_even_votes_are_dropped_or_kept() -> None:
    assert aggregate(votes("12")) == ()
    (pair,) = aggregate(votes("12="), AggregateConfig(ties="keep", smoothing=2.0))
    assert pair.label == 0.5


def test_weight_by_votes() -> None:
    pairs = aggregate(votes("111") + votes("1", (A, C)), AggregateConfig(weight="votes"))
    assert [p.weight for p in pairs] == [1.5, 0.5]  # 3 and 1 votes, 2 on average
    assert {p.weight for p in aggregate(votes("111") + votes("1", (A, C)))} == {1.0}


def test_reliability_weighs_annotators() -> None:
    (pair,) = aggregate(votes("12"), AggregateConfig(), {"ann0": 3.0, "ann1": 1.0})
    assert (pair.chosen[0].text, pair.label) == ("one", pytest.approx(0.75))


def test_protocols_are_not_mixed() -> None:
    from dataclasses import replace

    mixed = votes("11")
    with pytest.raises(DataError, match="protocol"):
        aggregate([mixed[0], replace(mixed[1], protocol="likert-v1")])


def test_every_vote_is_in_a_pair_or_left_out_by_name() -> None:
    cast = [*votes("112="), *votes("12", (A, C)), *votes("=", (B, C), "q")]
    for ties in ("drop", "keep"):
        for label in ("soft", "majority"):
            pairs = aggregate(cast, AggregateConfig(ties=ties, label=label))
            lost, found = left_out(cast, pairs), counts(cast, pairs)
            even = {c.record_id for c in cast[4:]} if ties == "drop" else set()
            assert {x.record_id for x in lost} == even
            assert found["left_out"] == len(even)
            assert sum(found.values()) == len(cast)
    assert counts(cast, aggregate(cast)) == {"for": 2, "against": 1, "tie": 1, "left_out": 3}
    assert "preferences.aggregate.ties=keep" in left_out(cast, aggregate(cast))[0].reason


def renamed(votes_: list[Comparison], first: str, second: str) -> list[Comparison]:
    from dataclasses import replace

    return [
        replace(v, candidates=tuple(replace(c, candidate_id=i) for c, i in zip(v.candidates, (first, second))))  # type: ignore[arg-type]
        for v in votes_
    ]


def test_the_same_texts_under_other_ids_are_other_candidates() -> None:
    """Smoothing 1: one vote each makes (1 + 1) / (1 + 2) twice, and not (1 + 1) / (2 + 2)."""
    cast = [*votes("1"), *renamed(votes("1"), "x", "y")]
    pairs = aggregate(cast, AggregateConfig(smoothing=1.0))
    assert [p.label for p in pairs] == [pytest.approx(2 / 3)] * 2
    assert [p.record_id for p in pairs] == ["p:a>b", "p:x>y"]
    even = [*votes("12"), *renamed(votes("1"), "x", "y")]
    kept = aggregate(even)
    assert [p.record_id for p in kept] == ["p:x>y"]
    assert [x.record_id for x in left_out(even, kept)] == ["pb0", "pb1"]
    assert counts(even, kept) == {"for": 1, "against": 0, "tie": 0, "left_out": 2}


def test_smoothing_adds_votes_to_weights() -> None:
    """Weights 3 and 1, one made-up vote a side: (3 + 1) / (4 + 2); a tie of weight 3 is 3 of 6."""
    (pair,) = aggregate(votes("12"), AggregateConfig(smoothing=1.0), {"ann0": 3.0, "ann1": 1.0})
    assert pair.label == pytest.approx(4 / 6)
    (pair,) = aggregate(votes("=1"), AggregateConfig(smoothing=1.0), {"ann0": 3.0, "ann1": 1.0})
    assert (pair.label, pair.tie) == (pytest.approx((1.5 + 1 + 1) / 6), pytest.approx(3 / 6))


def test_votes_without_weight_are_even() -> None:
    (pair,) = aggregate(votes("11"), AggregateConfig(ties="keep"), {"ann0": 0.0, "ann1": 0.0})
    assert (pair.label, pair.tie) == (0.5, 0.0)


def test_an_unknown_annotator_is_refused_or_counts_what_is_said() -> None:
    with pytest.raises(DataError, match="'ann1' is not known"):
        aggregate(votes("12"), AggregateConfig(), {"ann0": 0.9})
    (pair,) = aggregate(votes("12"), AggregateConfig(), {"ann0": 0.9}, unknown=0.1)
    assert (pair.chosen[0].text, pair.label) == ("one", pytest.approx(0.9))


def test_images_and_tool_calls_of_an_answer_survive() -> None:
    called = (Message("assistant", "", {"tool_calls": [{"name": "f"}]}), Message("assistant", "done"))
    (pair,) = aggregate(votes("2", (A, Candidate("b", "done", turns=called))))
    assert (pair.chosen, pair.rejected) == (called, (Message("assistant", "one"),))
