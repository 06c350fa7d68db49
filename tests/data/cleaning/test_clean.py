"""What cleaning takes out, by hand: exact and near duplicates, contradictions, poor rows, questions of the evaluation."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from keel.data.cleaning.clean import clean, poor
from keel.data.cleaning.config import CleanConfig, DecontaminateConfig, QualityConfig
from keel.data.cleaning.near import jaccard, near_duplicates
from keel.data.cleaning.overlap import Questions
from keel.data.cleaning.texts import grams, texts_of
from keel.types import Comparison, Demonstration, Message, Pair, Prompt, Unpaired
from keel.types.records import Candidate

WORDS = [a + b for a in "bcdfg" for b in "aeiouxyz"]  # 40, without digits: numbers must agree
LONG = " ".join(WORDS)


def prompt(text: str, name: str = "", **meta: Any) -> Prompt:
    return Prompt(name or text, text=text, source_id=f"f:{name or text}", meta=meta)


def demonstration(asked: str, answer: str) -> Demonstration:
    return Demonstration(f"{asked}{answer}", prompt(asked), (Message("assistant", answer),))


def pair(asked: str, chosen: str, rejected: str) -> Pair:
    return Pair(f"{asked}{chosen}", prompt(asked), (Message("assistant", chosen),), (Message("assistant", rejected),))


def rules(records: list[Any], **config: Any) -> dict[int, str]:
    return {r.place: r.rule for r in clean(records, CleanConfig(**config)).removed}


def test_exact_and_near_duplicates_go_the_first_stays() -> None:
    near = " ".join([*WORDS[:39], "other"])
    far = " ".join([*WORDS[:30], *(f"far{c}" for c in "abcdefghij")])
    found = clean([prompt(LONG, "a"), prompt(LONG, "b"), prompt(near, "c"), prompt(far, "d")], CleanConfig())
    assert found.kept == (0, 3)
    assert [(r.place, r.rule, r.reason) for r in found.removed] == [
        (1, "exact_duplicate", "repeats f:a"),
        (2, "near_duplicate", "nearly repeats f:a"),
    ]
    assert found.counts() == {
        "kept": 2,
        "removed": 2,
        "quality": 0,
        "exact_duplicate": 1,
        "near_duplicate": 1,
        "contradiction": 0,
        "evaluation": 0,
    }
    assert rules([prompt(LONG, "a"), prompt(near, "c")], duplicates="exact") == {}
    assert rules([prompt(LONG, "a"), prompt(LONG, "b")], duplicates="keep") == {}


def test_the_hand_counted_overlap_decides() -> None:
    """40 words: 40 + 39 grams. One word replaced at the end: 39 + 38 shared of 79 + 2, 77 / 81 = 0.951."""
    a, b = grams(LONG), grams(" ".join([*WORDS[:39], "other"]))
    assert jaccard(a, b) == pytest.approx(77 / 81)
    records = [prompt(LONG, "a"), prompt(" ".join([*WORDS[:39], "other"]), "b")]
    assert rules(records, similarity=0.95) == {1: "near_duplicate"}
    assert rules(records, similarity=0.951) == {}


def test_other_numbers_answers_and_images_are_other_records() -> None:
    assert rules([prompt(f"{LONG} 3 apples", "a"), prompt(f"{LONG} 4 apples", "b")]) == {}
    assert rules([prompt(LONG, "a", answer="x"), prompt(f"{LONG} ", "b", answer="y")], contradictions="keep") == {}
    assert rules([demonstration(LONG, "yes, it is so indeed"), demonstration(LONG, "no, it never was like that")]) == {}
    assert rules([demonstration(LONG, "yes"), demonstration(f"{LONG}!", "yes")]) == {1: "near_duplicate"}


@pytest.mark.parametrize("seed", range(20))
def test_the_filter_finds_what_comparing_all_with_all_finds(seed: int) -> None:
    draw = random.Random(seed)
    base = [draw.choices(WORDS, k=draw.randrange(4, 30)) for _ in range(6)]
    texts = [" ".join(w if draw.random() > 0.04 else draw.choice(WORDS) for w in draw.choice(base)) for _ in range(40)]
    answers = [" ".join(w if draw.random() > 0.04 else draw.choice(WORDS) for w in draw.choice(base)) for _ in range(40)]
    records = [demonstration(t, a) for t, a in zip(texts, answers)] if seed % 2 else [prompt(t, str(i)) for i, t in enumerate(texts)]
    threshold = draw.choice([0.5, 0.7, 0.9])
    plain: dict[int, int] = {}
    sets = [tuple(map(grams, texts_of(r))) for r in records]
    for i in range(len(records)):
        same = next((j for j in range(i) if j not in plain and all(jaccard(a, b) > threshold for a, b in zip(sets[i], sets[j]))), None)
        plain |= {} if same is None else {i: same}
    assert near_duplicates(records, threshold) == plain


def test_contradictions_go_all_or_but_the_first() -> None:
    records = [pair("q", "one answer", "another thing"), pair("q", "another thing", "one answer"), pair("p", "fine words", "bad stuff")]
    assert rules(records) == {0: "contradiction", 1: "contradiction"}
    assert rules(records, contradictions="first") == {1: "contradiction"}
    assert rules(records, contradictions="keep") == {}
    wanted = [Unpaired(str(i), prompt("q"), (Message("assistant", "a word"),), desirable) for i, desirable in enumerate((True, False))]
    assert rules(wanted) == {0: "contradiction", 1: "contradiction"}
    assert rules([prompt("2 + 2 ?", "a", answer="4"), prompt("2 + 2 ?", "b", answer="5")]) == {0: "contradiction", 1: "contradiction"}
    sides = (Candidate("x", "one answer"), Candidate("y", "another thing"))
    votes = [Comparison(w, prompt("q"), sides, o, 1.0, w, "v1", (0, 1)) for w, o in (("ann", "first"), ("bo", "second"))]
    assert rules(votes) == {}  # two people may disagree
    again = [*votes, Comparison("again", prompt("q"), sides, "second", 1.0, "ann", "v1", (0, 1))]
    assert rules(again) == {0: "contradiction", 2: "contradiction"}


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ("", "answer 1 has 0 words"),
        ("word " * 9000, "more than 8000"),
        ("the same four words " * 20, "repeats itself"),
        ("a --- *** ||| ### $$$ %%% ^^^", "hardly text"),
        ("Caf\ufffd is open today", "decoded wrongly"),
    ],
)
def test_rules_of_quality(answer: str, part: str) -> None:
    assert part in poor(demonstration("a question", answer), QualityConfig())
    assert poor(demonstration("a question", "A plain answer. 一个普通的回答。"), QualityConfig()) == ""


def test_questions_of_the_evaluation_are_found_in_prompts_and_answers() -> None:
    question = "how many legs does a spider that lost two of them in a fight have left now"
    short = "who are you"
    records = [
        demonstration("something else entirely", f"I was asked {question} and said six"),
        demonstration("how many legs does a spider have", "eight"),
        demonstration("Who are you?", "a model"),
        demonstration("tell me who are you and why", "a model"),
        demonstration("蜘蛛有几条腿这个问题很有意思你怎么看", "八条"),
    ]
    config = CleanConfig(decontaminate=DecontaminateConfig(path=["x"]))
    evaluation = [prompt(question), prompt(short), prompt("蜘蛛有几条腿")]
    found = clean(records, config, evaluation)
    assert {r.place: r.reason for r in found.removed} == {
        0: f"holds 100% of the question at f:{question}",
        2: f"holds 100% of the question at f:{short}",
        4: "holds 100% of the question at f:蜘蛛有几条腿",
    }


def test_a_share_of_the_runs_is_enough() -> None:
    """20 words make 8 runs of 13; a record with the first 16 words holds 4 of them."""
    said = WORDS[:20]
    record = prompt(" ".join([*said[:16], "z"]))
    for share, hit in ((0.5, True), (0.51, False)):
        questions = Questions([prompt(" ".join(said), "e")], DecontaminateConfig(path=["x"], share=share))
        assert (questions.found_in(record) is not None) is hit


def test_settings_that_nothing_reads_are_refused() -> None:
    for wrong in (
        {"duplicates": "exact", "similarity": 0.8},
        {"decontaminate": {"ngram": 5}},
        {"quality": {"min_words": 9, "max_words": 3}},
    ):
        with pytest.raises(ValidationError):
            CleanConfig(**wrong)  # type: ignore[arg-type]


def test_texts_that_share_words_do_not_hide_a_near_duplicate() -> None:
    """Question and both answers are one text with another word each, three other words in the copy: 76 of 82 in common, each; the unions
    have but 79 of 97."""

    def with_words(*odd: str) -> list[str]:
        return [" ".join([*WORDS[:at], word, *WORDS[at + 1 :]]) for at, word in zip((10, 20, 30), odd)]

    records = [pair(*with_words("one", "two", "three")), pair(*with_words("uno", "due", "tre"))]
    assert rules(records, similarity=0.92) == {1: "near_duplicate"}
    assert rules(records, similarity=0.93) == {}
