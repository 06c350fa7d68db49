from __future__ import annotations

import pytest

from keel.core.errors import DataError
from keel.data.config import ConversionConfig
from keel.data.conversion import comparisons_to_pairs, pairs_to_unpaired, rankings_to_pairs, ratings_to_pairs, to_demonstrations
from keel.types import Candidate, Comparison, Demonstration, Message, Pair, Prompt, Ranking, Rating, Steps, Unpaired

P, Q = Prompt("p", text="p"), Prompt("q", text="q")


def said(text):
    return (Message("assistant", text),)


def edges(pairs):
    return {(p.chosen[0].text, p.rejected[0].text) for p in pairs}


def rating(text, prompt=P, **scores):
    return Rating(text, prompt, said(text), scores)


def test_ratings_make_pairs_within_a_prompt_with_the_difference_as_margin():
    pairs = ratings_to_pairs([rating("a", x=7.0), rating("b", x=4.0), rating("c", x=4.0), rating("d", Q, x=1.0)])
    assert {(p.chosen[0].text, p.rejected[0].text, p.margin) for p in pairs} == {("a", "b", 3.0), ("a", "c", 3.0)}


def test_rating_dimension_and_gap():
    ratings = [rating("a", x=7.0, y=1.0), rating("b", x=5.0, y=5.0)]  # means 4 and 5
    assert edges(ratings_to_pairs(ratings)) == {("b", "a")}
    assert edges(ratings_to_pairs(ratings, "x")) == {("a", "b")}
    assert ratings_to_pairs(ratings, "x", min_gap=2.0) == []
    with pytest.raises(DataError, match="no dimension 'z'"):
        ratings_to_pairs(ratings, "z")


def test_rating_ties_and_equal_answers():
    ratings = [rating("a", x=1.0), rating("b", x=1.0)]
    assert ratings_to_pairs(ratings) == []
    (tie,) = ratings_to_pairs(ratings, ties="keep")
    assert (tie.label, tie.margin) == (0.5, 0.0)
    same = [rating("a", x=1.0), rating("a", x=2.0)]
    assert ratings_to_pairs(same) == []  # two annotators of one answer are no pair


def test_ranking_weights_by_distance_average_one():
    (ranking,) = [Ranking("r", P, tuple(said(t) for t in "abc"), (1, 2, 3))]
    pairs = rankings_to_pairs([ranking])
    # distances 1, 2, 1 over their mean 4/3
    assert {(p.chosen[0].text, p.rejected[0].text): p.weight for p in pairs} == pytest.approx(
        {("a", "b"): 0.75, ("a", "c"): 1.5, ("b", "c"): 0.75}
    )
    assert {p.weight for p in rankings_to_pairs([ranking], weight="equal")} == {1.0}
    assert len({p.record_id for p in pairs}) == 3


def test_balance_keeps_the_clearest():
    ranking = Ranking("r", P, tuple(said(t) for t in "abcd"), (1, 2, 3, 4))
    assert edges(rankings_to_pairs([ranking], balance=1)) == {("a", "d"), ("b", "d"), ("c", "d")}
    assert edges(rankings_to_pairs([ranking], balance=2)) == {("a", "d"), ("a", "c"), ("b", "d"), ("b", "c"), ("c", "d")}
    assert len(rankings_to_pairs([ranking], balance=0)) == 6


def test_ranking_ties():
    ranking = Ranking("r", P, tuple(said(t) for t in "abc"), (1, 2, 2))
    assert edges(rankings_to_pairs([ranking])) == {("a", "b"), ("a", "c")}
    kept = rankings_to_pairs([ranking], ties="keep")
    assert [(p.label, p.weight) for p in kept] == [(1.0, 1.0), (1.0, 1.0), (0.5, 1.0)]


def vote(outcome, annotator="ann", strength=1.0, swapped=False, protocol="pairwise-v1"):
    two = (Candidate("x", "first text"), Candidate("y", "second text"))
    two = two[::-1] if swapped else two
    return Comparison(f"{annotator}", P, two, outcome, strength, annotator, protocol, (0, 1))


def test_votes_become_a_soft_label():
    (pair,) = comparisons_to_pairs([vote("first", "a", 0.5), vote("first", "b", 1.0), vote("second", "c"), vote("tie", "d")])
    assert pair.chosen[0].text == "first text"
    assert pair.label == pytest.approx((2 + 0.5) / 4)
    assert pair.margin == pytest.approx(0.75)


def test_votes_follow_the_candidate_not_the_place():
    (pair,) = comparisons_to_pairs([vote("second", "a"), vote("first", "b", swapped=True)])
    assert pair.chosen[0].text == "second text"
    assert pair.label == 1.0


def test_even_votes_and_reliability():
    votes = [vote("first", "a"), vote("second", "b")]
    assert comparisons_to_pairs(votes) == []
    assert comparisons_to_pairs(votes, ties="keep")[0].label == 0.5
    (pair,) = comparisons_to_pairs(votes, reliability={"a": 0.9, "b": 0.3})
    assert pair.chosen[0].text == "first text"
    assert pair.label == pytest.approx(0.75)


def test_protocols_are_not_mixed():
    with pytest.raises(DataError, match="likert-v1, pairwise-v1"):
        comparisons_to_pairs([vote("first"), vote("first", protocol="likert-v1")])


def test_pairs_to_unpaired_counts_each_answer_once():
    a, b, c = said("a"), said("b"), said("c")
    pairs = [Pair("1", P, a, b), Pair("2", P, a, c), Pair("3", P, c, b, label=0.75), Pair("4", Q, a, b, label=0.5)]
    found = {(u.prompt.prompt_id, u.answer[0].text): (u.desirable, u.weight) for u in pairs_to_unpaired(pairs)}
    # c: -1 and +0.5 over two pairs; the tie about q says nothing
    assert found == {("p", "a"): (True, 1.0), ("p", "b"): (False, 0.75), ("p", "c"): (False, 0.25)}


def test_answers_to_imitate():
    """Of a > b > c only a is the best; of unpaired answers the wanted one; a tie says nothing."""
    ranked = Ranking("r", Q, tuple(said(a) for a in "abc"), (1, 2, 3))
    assert [d.completion for d in to_demonstrations([ranked], ConversionConfig())] == [said("a")]
    tie = Pair("t", Q, said("a"), said("b"), label=0.5)
    lost = Pair("l", P, said("a"), said("b"), label=0.2)
    assert [(d.prompt, d.completion) for d in to_demonstrations([tie, lost], ConversionConfig())] == [(P, said("b"))]
    judged = [Unpaired(x, Q, said(x), desirable=x == "b") for x in "ab"]
    shown = Demonstration("d", Q, said("c"))
    assert [d.completion for d in to_demonstrations([*judged, shown], ConversionConfig())] == [said("c"), said("b")]


@pytest.mark.parametrize("record", [Q, Steps("s", Q, ("a",), (False,))])
def test_nothing_to_imitate(record):
    with pytest.raises(DataError, match="no answers to imitate"):
        to_demonstrations([record], ConversionConfig())
