"""Tokens and singulars."""

from __future__ import annotations

import pytest

from keel.rewards.reading.words import original_singular, singular, tokens


def test_marks_and_what_hangs_on_words_are_tokens() -> None:
    assert tokens("A dog's ball, isn't it? A stop-sign.") == ["A", "dog", "'s", "ball", ",", "is", "n't", "it", "?", "A", "stop-sign", "."]


def test_each_chinese_character_is_a_token() -> None:
    assert tokens("图中有2只dog。") == ["图", "中", "有", "2", "只", "dog", "。"]


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"), ("buses", "bus"), ("minibuses", "minibus"),
        ("glasses", "glass"), ("glass", "glass"), ("bus", "bus"), ("benches", "bench"),
        ("knives", "knife"), ("people", "person"), ("policewomen", "policewoman"), ("grandchildren", "grandchild"), ("ponies", "pony"),
        ("ties", "tie"), ("movies", "movie"), ("horses", "horse"), ("couches", "couch"), ("scissors", "scissors"), ("skis", "ski"),
        ("sandwiches", "sandwich"), ("toothbrushes", "toothbrush"), ("boxes", "box"), ("potatoes", "potato"), ("shoes", "shoe"),
        ("tennis", "tennis"), ("specimen", "specimen"), ("vases", "vase"), ("is", "is"), ("狗", "狗"),
    ],
)  # fmt: skip
def test_singular(plural: str, one: str) -> None:
    assert singular(plural) == one


@pytest.mark.parametrize(
    ("word", "one"), [("glass", "glas"), ("bus", "bu"), ("tennis", "tenni"), ("ties", "ty"), ("dogs", "dog"), ("scissors", "scissors")]
)
def test_the_scripts_library_takes_every_last_s(word: str, one: str) -> None:
    assert original_singular(word) == one
