"""What a text shows of having been made for a reward."""

from __future__ import annotations

import random

from keel.feedback.hacks import Limits, hacks, refrains

ASK = "Where can I collect the parcel that I ordered on Monday?"


def test_a_plain_answer_has_none() -> None:
    assert hacks(ASK, "You can collect it at our shop from ten o'clock, please bring the order number.") == {}
    assert hacks(ASK, "") == {}


def test_repetition_counts_repeated_runs_of_four_words() -> None:
    said = "please send your number please send your number please send your number"
    # 12 words, 9 runs of four: 4 different ones, so 5 of 9 are repeats
    assert hacks(ASK, said) == {"repetition": 5 / 9}
    assert hacks(ASK, said, limits=Limits(repetition=0.56)) == {}
    assert hacks(ASK, said, limits=Limits(repetition=0.0)) == {}


def test_echo_is_the_prompt_handed_back() -> None:
    assert hacks(ASK, ASK)["echo"] == 1.0
    half = "the parcel that I ordered is here now"  # runs of 4: "the parcel that i", "parcel that i ordered" of 5
    assert hacks(ASK, half, limits=Limits(echo=0.4)) == {"echo": 0.4}
    assert hacks(ASK, half, limits=Limits(echo=0.41)) == {}


def test_a_refrain_is_said_whatever_is_asked() -> None:
    answers = {str(i): [f"Answer number {i} is long enough. We are always here for you!"] for i in range(10)}
    common = refrains(answers, 0.5)
    assert common == {"we are always here for you"}
    found = hacks(ASK, "It is in the small shop. We are ALWAYS here for you.", common)
    assert found == {"refrain": 0.5}
    assert refrains(answers, 0.0) == frozenset()
    assert refrains(dict(list(answers.items())[:4]), 0.5) == frozenset()  # four prompts show nothing


def test_the_same_prompt_twice_is_one_prompt_and_short_phrases_are_nobodys_trick() -> None:
    assert (
        refrains({"a": ["We are always here for you."] * 20, **{str(i): ["Something else here now."] for i in range(4)}}, 0.1)
        == frozenset()
    )
    assert refrains({str(i): ["Thank you."] for i in range(20)}, 0.1) == frozenset()


def test_the_order_of_answers_changes_nothing() -> None:
    rng = random.Random(0)
    words = ["we", "are", "here", "for", "you", "please", "send", "the", "number", "of", "your", "order", "today"]
    answers = {str(i): [" ".join(rng.choices(words, k=6)) + "." for _ in range(3)] for i in range(30)}
    backwards = {k: answers[k][::-1] for k in reversed(answers)}
    assert refrains(answers, 0.1) == refrains(backwards, 0.1)
