from __future__ import annotations

import pytest

from keel.data.choices import answered, checked_options, letter_of, options_of, written
from keel.data.errors import FieldError
from keel.rewards.verifiers.choice import chosen


def test_a_question_is_written_in_its_own_language():
    options = options_of("choices", ["dog", 2, " cat "])
    assert options == {"A": "dog", "B": "2", "C": "cat"}
    assert written("What is this? ", options, hint="It purrs.") == (
        "It purrs.\nWhat is this?\nA. dog\nB. 2\nC. cat\nAnswer with the letter of the right option."
    )
    assert written("What is this?", options, reason=True).endswith('Then end with a line "Answer: LETTER".')
    assert written("图中是什么？", {"A": "天坛", "B": "故宫"}) == "图中是什么？\nA. 天坛\nB. 故宫\n请用正确选项的字母回答。"


@pytest.mark.parametrize("chinese", [True, False])
@pytest.mark.parametrize("reason", ["", "It has whiskers. A dog has none.", "因为有胡须，不是A。"])
@pytest.mark.parametrize("letter", ["A", "B", "D"])
def test_the_verifier_reads_what_is_trained(letter, reason, chinese):
    options = {"A": "a dog", "B": "a cat", "C": "a hen", "D": "the letter A"}
    assert chosen(answered(letter, reason, chinese), options) == letter


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ("dog", "choices", "must be a list of 2 to 26 options, is text"),
        (["dog"], "choices", "must be a list of 2 to 26 options, is a list of 1"),
        (["dog", " "], "choices.1", "the option is empty"),
        (["dog", True], "choices.1", "an option must be text, is true or false"),
        (["dog", "cat", "dog "], "choices.2", "is the same as option A"),
    ],
)
def test_options_that_cannot_be_told_apart(value, field, reason):
    with pytest.raises(FieldError) as error:
        options_of("choices", value)
    assert error.value.field == field
    assert reason in error.value.reason


def test_the_right_option_is_a_letter_or_its_text():
    options = checked_options({"A": ("A", "dog"), "B": ("B", "cat")})
    assert [letter_of("answer", v, options) for v in ("B", " b", "cat")] == ["B"] * 3
    for wrong in ("C", "", "a cat", 1, None):
        with pytest.raises(FieldError, match="answer: "):
            letter_of("answer", wrong, options)
