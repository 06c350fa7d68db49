"""How far outputs move when an image is changed: numbers by hand, and what counts as blind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from keel.evaluate.blindness import NATS, SD, Look, changed, policy_moves, score_changes, scores_are_right, scores_move
from keel.types import Branch, Edge, Encoded, MediaRef, PairTarget, Unit


def unit(name: str, image: str | None, n_answers: int = 1, n_tokens: int = 2) -> Unit:
    media = (MediaRef(image, n_tokens),) if image else ()
    branch = Branch(torch.tensor([7, 8]), torch.tensor([True, False]))
    return Unit(name, Encoded(torch.tensor([1, 2, 3]), media), (branch,) * n_answers)


def masked(prompt: Encoded) -> Encoded | None:
    return replace(prompt, media=tuple(MediaRef("grey", m.n_tokens) for m in prompt.media)) if prompt.media else None


VALUES = {"a": 1.0, "b": 3.0, "c": 5.0, "grey": 0.0}


def by_image(units: Sequence[Unit]) -> list[Tensor]:
    return [torch.tensor([VALUES[u.prompt.media[0].digest] + 10 * i for i in range(len(u.branches))]) for u in units]


def test_images_are_swapped_in_turn_and_masked() -> None:
    found = changed([unit("1", "a"), unit("2", None), unit("3", "b"), unit("4", "c", n_tokens=9)], {"greyed": masked})
    swaps = [(u.unit_id, other.prompt.media[0].digest) for u, other in found["swapped"]]
    assert swaps == [("1", "b"), ("3", "a")], "the third image takes other places"
    assert [u.unit_id for u, _ in found["greyed"]] == ["1", "3", "4"]
    assert all(other.branches is u.branches for of in found.values() for u, other in of)
    assert changed([unit("1", "a"), unit("2", None)], {}) == {}


def test_scores_move_by_hand() -> None:
    """Scores 1, 3, 5: their standard deviation is sqrt(8 / 3). Swapped they move by 2, 2, 4; greyed by 1, 3, 5."""
    pairs = changed([unit(i, i) for i in "abc"], {"greyed": masked})
    look = scores_move(by_image, pairs)
    spread = math.sqrt(8 / 3)
    assert look is not None
    assert look.moved == pytest.approx({"swapped": 8 / 3 / spread, "greyed": 3 / spread})
    assert (look.n, look.unit, look.blind) == (3, SD, False)


def test_every_answer_counts_and_more_units_widen_the_spread() -> None:
    """Scores 1, 11 and 3, 13 move by 2 each; a fifth score of 5 stands beside them."""
    pairs = changed([unit("1", "a", 2), unit("2", "b", 2)], {})
    assert score_changes(by_image, pairs)["swapped"].tolist() == pytest.approx([2 / math.sqrt(26)] * 4)
    wide = torch.tensor([1.0, 11, 3, 13, 5], dtype=torch.float64).std(correction=0)
    assert score_changes(by_image, pairs, [unit("3", "c")])["swapped"].tolist() == pytest.approx([2 / float(wide)] * 4)


def test_a_model_of_one_score_is_blind_and_so_is_one_of_nan() -> None:
    pairs = changed([unit("1", "a"), unit("2", "b")], {})
    for value in (4.0, math.nan):
        look = scores_move(lambda units, value=value: [torch.tensor([value])] * len(units), pairs)
        assert look is not None
        assert look.blind


def test_what_moves_need_not_help() -> None:
    """Four preferences for the first answer; its score is higher before its own image alone, equal before grey."""
    edge = PairTarget((Edge(0, 1),))
    units = [replace(unit(str(i), i, 2), target=edge) for i in "ab"]
    votes = [*units, replace(units[0], unit_id="tie", target=PairTarget((Edge(0, 1, label=0.5),)))]

    def own(us: Sequence[Unit]) -> list[Tensor]:
        lead = [0.0 if u.prompt.media[0].digest == "grey" else 1.0 if u.prompt.media[0].digest == u.unit_id else -1.0 for u in us]
        return [torch.tensor([x, 0.0]) for x in lead]

    named = [replace(u, unit_id=u.prompt.media[0].digest) for u in units]
    assert scores_are_right(own, changed(named, {"greyed": masked})) == {"shown": 1.0, "swapped": 0.0, "greyed": 0.5}
    against = [replace(u, target=PairTarget((Edge(0, 1, label=0.2),))) for u in named]
    assert scores_are_right(own, changed(against, {})) == {"shown": 0.0, "swapped": 1.0}
    assert scores_are_right(own, changed([votes[2], replace(votes[2], prompt=units[1].prompt)], {})) == {}, "a tie prefers nothing"
    assert scores_are_right(own, changed([unit("1", "a"), unit("2", "b")], {})) == {}


def test_a_policy_moves_by_the_mean_over_trained_tokens() -> None:
    pairs = changed([unit("1", "a"), unit("2", "b")], {"greyed": masked})

    def divergences(units: Sequence[Unit], others: Sequence[Unit]) -> Any:
        each = [abs(VALUES[u.prompt.media[0].digest] - VALUES[o.prompt.media[0].digest]) for u, o in zip(units, others, strict=True)]
        return [(torch.tensor([x, 100.0]),) for x in each]

    look = policy_moves(divergences, pairs)
    assert look is not None
    assert look.moved == {"swapped": 2.0, "greyed": 2.0}, "the second token of each answer is not trained"
    assert (look.unit, look.n) == (NATS, 2)


def test_blind_is_who_sees_no_change() -> None:
    assert Look(SD, {"swapped": 0.0, "greyed": 0.099}, 4).blind
    assert not Look(SD, {"swapped": 0.0, "greyed": 0.1}, 4).blind, "one change that is seen is enough"
    assert Look(NATS, {"swapped": 0.0099}, 4).blind
    assert Look(NATS, {"swapped": math.nan}, 4).blind, "a number that is none is no look"
    text = Look(NATS, {"swapped": 0.02, "blurred": 0.001}, 4).finding
    assert (
        text
        == "the image moves the output by 0.02 when it is swapped, 0.001 when it is blurred (nats a token, 4 prompts; blind below 0.01)"
    )


def test_without_images_there_is_nothing_to_say() -> None:
    assert scores_move(by_image, {}) is None
    assert policy_moves(lambda a, b: [], {}) is None
