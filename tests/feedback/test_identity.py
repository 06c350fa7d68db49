"""Which votes are on the same two answers: one rule for tallies, soft pairs, agreement, votes as arrays, and what is left out."""

from __future__ import annotations

import random
from typing import Literal, cast

import numpy as np
import pytest

from keel.data.config import ConversionConfig
from keel.data.conversion import comparisons_to_pairs, tallies
from keel.data.left_out import left_out
from keel.feedback.aggregate import aggregate, counts, way_of
from keel.feedback.agreement import agreement
from keel.feedback.config import AggregateConfig
from keel.feedback.reliability.votes import from_comparisons
from keel.feedback.soft_pairs import soft_pairs
from keel.types import Candidate, Comparison, ImagePart, Message, Prompt, TextPart
from keel.types.identity import answer_id, answer_key, item_of


def shown(name: str, text: str, image: str) -> Candidate:
    """An answer; with an image where one is named."""
    turns = (Message("assistant", (TextPart(text), ImagePart(image))),) if image else ()
    return Candidate(name, text, turns=turns)


def key(candidate: Candidate) -> str:
    return answer_key(candidate.messages)


def vote(n: int, one: Candidate, two: Candidate, outcome: str = "first", who: str = "ann", prompt: str = "p") -> Comparison:
    said = cast("Literal['first', 'second', 'tie']", outcome)
    return Comparison(f"v{n}", Prompt(prompt, (Message("user", "?"),)), (one, two), said, 1.0, who, "v1", (0, 1))


RED, BLUE, OTHER = shown("a", "this one", "red.png"), shown("a", "this one", "blue.png"), shown("b", "that one", "")


def test_answers_that_differ_in_their_images_alone_are_two() -> None:
    votes = [vote(0, RED, OTHER), vote(1, BLUE, OTHER, "second"), vote(2, OTHER, RED, "second", "bob")]
    assert len(tallies(votes)) == 2
    for config in (AggregateConfig(), AggregateConfig(method="weighted"), AggregateConfig(method="dawid_skene")):
        pairs = aggregate(votes, config)
        assert {way_of(p)[1:] for p in pairs} == {(key(RED), key(OTHER)), (key(OTHER), key(BLUE))}
        assert counts(votes, pairs) == {"for": 3, "against": 0, "tie": 0, "left_out": 0}
    assert agreement(votes).raw == 1.0, "Ann and Bob agree on the red one; nobody else saw the blue one"
    assert left_out(votes, comparisons_to_pairs(votes), ConversionConfig(to="pairs")) == ()


def votes_of_people(seed: int) -> list[Comparison]:
    """Up to twelve votes on two prompts, with answers of three ids, two texts and three images."""
    rng = random.Random(seed)
    found: list[Comparison] = []
    for n in range(rng.randint(1, 12)):
        ids = rng.sample("abc", 2)
        one, two = (shown(i, rng.choice("xy"), rng.choice(["", "red.png", "blue.png"])) for i in ids)
        outcome, who = rng.choice(["first", "second", "tie"]), rng.choice(["ann", "bob", "eve"])
        found.append(vote(n, one, two, outcome, who, rng.choice("pq")))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_all_who_add_votes_up_see_the_same_items(seed: int) -> None:
    votes = votes_of_people(seed)
    items = list(dict.fromkeys(map(item_of, votes)))
    assert len(tallies(votes)) == len(from_comparisons(votes).tasks) == agreement(votes).items == len(items)
    soft_TK = np.full((len(items), 3), 1 / 3)
    assert soft_pairs(votes, soft_TK, ties="keep").tasks == len(items)
    # a vote counts for the answer that it names, whichever stands first in the record
    turned = [
        Comparison(
            v.record_id,
            v.prompt,
            (v.candidates[1], v.candidates[0]),
            cast("Literal['first', 'second', 'tie']", {"first": "second", "second": "first"}.get(v.outcome, v.outcome)),
            v.strength,
            v.annotator_id,
            v.protocol,
            v.display_order,
        )
        for v in votes
    ]
    for config in (AggregateConfig(ties="keep"), AggregateConfig(method="weighted", ties="keep")):
        one, other = aggregate(votes, config), aggregate(turned, config)
        better = [{(*way_of(p), round(p.label, 9)) for p in pairs if p.label != 0.5} for pairs in (one, other)]
        assert better[0] == better[1]
    asked = {frozenset(map(key, v.candidates)) for v in votes}
    assert {frozenset(way_of(p)[1:]) for p in aggregate(votes, AggregateConfig(method="weighted"))} <= asked


def test_the_place_in_a_record_is_no_identity() -> None:
    assert item_of(vote(0, RED, OTHER)) == item_of(vote(1, OTHER, RED))
    assert answer_id(RED) != answer_id(BLUE)
    with pytest.raises(ValueError):
        item_of(Comparison("v", Prompt("p"), (RED,), "first", 1.0, "ann", "v1", (0, 1)))  # type: ignore[arg-type]
