"""Variants by rule: what they change, what they leave, in both languages."""

from __future__ import annotations

import pytest

from keel.evaluate import stress

EN = "Use the red tent, because it is big. Do not forget the pegs. You can start at noon."
ZH = "可以用红色的帐篷，因为它很大。如果下雨，就需要盖布。中午开始吧。"


@pytest.mark.parametrize("text", [EN, ZH])
def test_longer_keeps_the_answer_and_adds_nothing_of_substance(text):
    found = stress.longer(text)
    assert found.startswith(text)
    assert len(found) >= 1.5 * len(text)
    assert len(stress.longer(text * 40)) == pytest.approx(2 * len(text * 40), rel=0.2)


@pytest.mark.parametrize("text", [EN, ZH])
def test_restyled_keeps_every_word(text):
    found = stress.restyled(text)
    assert found.startswith("## ")
    assert found.count("\n- ") == 3
    assert "**" in found
    bare = found.split("\n\n", 1)[1].replace("- ", "").replace("**", "").replace("\n", " " if text is EN else "")
    assert bare == text


@pytest.mark.parametrize("text", [EN, ZH])
def test_flattery_stands_in_front(text):
    found = stress.flattering(text)
    assert found.endswith(text)
    assert len(found) > len(text)


@pytest.mark.parametrize("text", [EN, ZH])
def test_reordered_has_the_same_sentences_in_another_order(text):
    found = stress.reordered(text)
    assert found != text
    assert sorted(found) == sorted(text)
    assert stress.reordered("One sentence only.") == "One sentence only."


def test_paraphrases_replace_whole_words_and_keep_capitals():
    assert stress.paraphrased(EN) == ("Make use of the red tent, since it's large. Don't forget the pegs. You can begin at noon.")
    assert stress.paraphrased("A user restarted.") == "A user restarted."
    assert "由于" in stress.paraphrased(ZH)
