"""Poor answers on purpose: each kind is what it says, differs from the answer that it was made of, and is marked."""

from __future__ import annotations

import pytest

from keel.data.text import language, repetition, word_count
from keel.feedback.candidates import make_candidate
from keel.feedback.negatives import KINDS, make_negative, repeated, swapped_facts, truncated
from keel.types import Prompt

EN = "The tent weighs 3 kg and fits 2 people. Our shop in Oslo sells it, and so does Bergen. Ask us about repairs at any time of the day."
ZH = "这顶帐篷重3公斤，可以睡2个人。我们在奥斯陆的商店有售。随时可以来问维修的事情。"
PROMPT = Prompt("p", text="How heavy is the tent?")
OWN = [make_candidate("p", EN, {"source": "reference"})]
OTHERS = {
    "q": [make_candidate("q", "Boots dry best in the open air, away from a stove.", {})],
    "r": [make_candidate("r", "靴子最好放在通风的地方晾干。", {})],
}


@pytest.mark.parametrize("text", [EN, ZH])
@pytest.mark.parametrize("seed", range(20))
def test_truncated_keeps_a_beginning(text: str, seed: int) -> None:
    found = truncated(text, seed)
    assert found is not None
    assert text.startswith(found)
    assert 0.25 <= word_count(found) / word_count(text) <= 0.65
    assert truncated("too short") is None


@pytest.mark.parametrize("text", [EN, ZH])
def test_repeated_says_one_sentence_four_times(text: str) -> None:
    found = repeated(text, 1)
    assert found is not None
    assert repetition(found) > 0.3 > repetition(text)
    assert repeated("") is None


def test_swapped_facts_by_hand() -> None:
    assert swapped_facts("It has 3 wheels and 12 seats.", 0) == "It has 12 wheels and 3 seats."
    assert swapped_facts("From here Anna met Peter today.", 0) == "From here Peter met Anna today."
    assert swapped_facts("没有数字", 0) is None
    for seed in range(20):
        found = swapped_facts("It has 3 wheels.", seed)
        assert found is not None
        assert found != "It has 3 wheels."
        assert 4 <= int(found.split()[2]) <= 12


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_and_marked(kind: str) -> None:
    found = make_negative(kind, PROMPT, OWN, OTHERS, 0)  # type: ignore[arg-type]
    assert found is not None
    assert found.text != EN
    assert found.origin["source"] == "negative"
    assert found.origin["negative"] == kind
    known = [*OWN, *(c for cs in OTHERS.values() for c in cs)]
    assert found.origin["made_from"] in {c.candidate_id for c in known}
    if kind == "off_topic":
        assert found.text == OTHERS["q"][0].text
    if kind == "wrong_language":
        assert language(found.text) == "zh"
    assert make_negative(kind, PROMPT, OWN, OTHERS, 0) == found  # type: ignore[arg-type]


def test_what_cannot_be_made_is_not() -> None:
    assert make_negative("wrong_language", PROMPT, OWN, {"q": OTHERS["q"]}, 0) is None
    assert make_negative("off_topic", PROMPT, OWN, {"r": OTHERS["r"]}, 0) is None
    assert make_negative("off_topic", PROMPT, OTHERS["q"], {"q": OTHERS["q"]}, 0) is None  # an answer that is like one's own is on topic
    assert make_negative("swapped_facts", PROMPT, [make_candidate("p", "nothing to swap", {})], {}, 0) is None
