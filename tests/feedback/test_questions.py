"""What two answers are asked about, and when two questions are the same."""

from __future__ import annotations

import itertools
import random

from keel.feedback.candidates import make_candidate, make_turns
from keel.feedback.questions import answer_words, asked, asked_words, shared_turns
from keel.types import Message, Prompt


def said(*texts: str) -> tuple[Message, ...]:
    """Turns by the first letter: u(ser), a(ssistant), s(ystem), t(ool)."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return tuple(Message(roles[text[0]], text[1:]) for text in texts)


def test_the_question_ends_at_the_last_turn_that_both_were_asked() -> None:
    one = said("sBe kind.", "uGuess.", "a5", "uhigher", "a7")
    assert shared_turns(one, said("sBe kind.", "uGuess.", "a5", "uhigher", "a6", "uhigher", "a7")) == 4
    assert shared_turns(one, said("sBe kind.", "uGuess.", "a6", "ulower", "a3")) == 2, "they part at the first answer"
    assert shared_turns(one, said("sBe kind.", "uGuess.", "a5")) == 2, "one ends where the other goes on: both have an answer"
    assert shared_turns(said("uGuess.", "a5", "uhigher"), said("uGuess.", "a5", "uhigher", "a7")) == 1, "one has no answer to the last"
    assert shared_turns(one, said("sBe kind.", "uAnother.", "a5")) == 0
    assert shared_turns(one, said("sBe kind.", "uGuess.", "a5", "ulower", "a7")) == 2, "the world said another thing"


def test_whatever_two_conversations_share_each_keeps_an_answer() -> None:
    """Of many random pairs: the question is a common beginning, ends before an answer of both, and no longer one does."""
    draw = random.Random(0)
    for _ in range(300):
        one, two = (
            tuple(Message("user" if i % 2 == 0 else "assistant", draw.choice("xy")) for i in range(2 * draw.randint(1, 3))) for _ in "ab"
        )
        fits = [
            n
            for n in range(1, min(len(one), len(two)))
            if one[:n] == two[:n] and one[n - 1].role == "user" and one[n].role == two[n].role == "assistant"
        ]
        assert shared_turns(one, two) == shared_turns(two, one) == max(fits, default=0)


def test_equal_words_are_the_same_question_in_any_order() -> None:
    first, second = said("aYes. "), said("aNo.")
    plain = Prompt("p", said("uIs it?"))
    assert asked(plain, (first, second)) == asked(Prompt("q", said("sBe kind.", "uIs it?")), (second, said("a Yes.")))
    assert asked(plain, (first, second)) != asked(Prompt("p", said("uIs this?", "aWhat?", "uIs it?")), (first, second))
    assert asked_words(Prompt("r", text="Is it?")) == "Is it?"
    calls = [Message("assistant", "", {"tool_calls": [{"function": {"name": "add", "arguments": {"n": n}}}]}) for n in (1, 2)]
    answers = [said("aYes."), said("aYes.", "uSure?", "aYes."), said("uYes."), *((c,) for c in calls), (calls[0], *said("t1", "a1"))]
    for one, two in itertools.combinations(answers, 2):
        assert (answer_words(one) == answer_words(two)) == (one == (*said("aYes."),) and two == (*said("uYes."),)), (one, two)


def test_a_candidate_of_one_turn_is_the_one_it_always_was() -> None:
    assert make_turns("p", said("a Yes. "), {"model": "m"}) == make_candidate("p", "Yes.", {"model": "m"})
    talk = make_turns("p", said("aFive", "uhigher", "a", "aSeven"), {})
    assert talk.text == "Five\n\nSeven"
    assert talk.messages == said("aFive", "uhigher", "a", "aSeven")
    assert talk.candidate_id != make_turns("p", said("aFive", "ulower", "a", "aSeven"), {}).candidate_id
