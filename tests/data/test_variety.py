"""Variety by hand, and what noise cannot get."""

from __future__ import annotations

import random

import pytest

from keel.data.variety import differences, known_words, overlap

WORDS = ("red", "blue", "green", "one", "two", "three", "sea", "sky", "sun")


def some(draw: random.Random) -> list[str]:
    return draw.choices(WORDS, k=draw.randint(1, 8))


def test_words_by_hand() -> None:
    """{red, sea} and {blue, sea}: one of two in common. {red, sea} and {sun}: none."""
    known = frozenset({"red", "blue", "sea", "sun"})
    assert overlap(frozenset({"red", "sea"}), frozenset({"blue", "sea"})) == 0.5
    assert differences(["red sea", "Blue sea.", "sun"], known) == [0.75, 0.75, 1.0]
    assert differences(["red sea"], known) == [0.0]
    assert differences([], known) == []


def test_chinese_counts_by_character() -> None:
    known = known_words([], ["红色的海", "红色的海", "蓝色的海", "蓝色的海"])
    assert differences(["红色的海", "蓝色的海"], known) == [0.25, 0.25]


def test_a_word_that_one_answer_alone_uses_is_not_known() -> None:
    known = known_words(["Which colour?"], ["red red xqv", "red sea", "blue"])
    assert known == {"which", "colour", "red"}
    assert differences(["red xqv zzk wpl", "red"], known) == [0.0, 0.0]
    assert differences(["xqv zzk", "red"], known) == [0.0, 0.0], "nothing but noise is no other answer"


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_added_to_a_copy_makes_it_no_other_answer(seed: int) -> None:
    draw = random.Random(seed)
    answer, noise = some(draw), some(draw)
    copy = " ".join(answer)
    known = known_words([copy, " ".join(noise)], [])
    within = list(answer)
    for word in noise:
        within.insert(draw.randint(0, len(within)), word)
    for padded in (f"{copy} {' '.join(noise)}", f"{' '.join(noise)} {copy}", " ".join(within)):
        assert differences([copy, padded], known) == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(50))
def test_differences_are_shares_and_do_not_hang_on_the_order(seed: int) -> None:
    draw = random.Random(seed)
    texts = [" ".join(some(draw)) for _ in range(draw.randint(2, 6))]
    known = known_words(texts, [])
    found = differences(texts, known)
    assert all(0 <= d <= 1 for d in found)
    assert differences(texts[::-1], known)[::-1] == pytest.approx(found)
