"""Questions with choices: how the options stand in the prompt, and where the right one goes, so that the ``choice`` verifier can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keel.data.errors import FieldError
from keel.data.rows import json_type
from keel.data.text import language

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASKED = {  # (chinese, with a reason) -> the last line of the prompt
    (False, False): "Answer with the letter of the right option.",
    (False, True): 'Give the reason in one or two sentences. Then end with a line "Answer: LETTER".',
    (True, False): "请用正确选项的字母回答。",
    (True, True): "请先用一两句话说明理由，最后单独一行写“答案：字母”。",
}


def is_chinese(*texts: str) -> bool:
    """Is most of these texts Chinese?"""
    return language("\n".join(texts)) == "zh"


def options_of(name: str, value: Any) -> dict[str, str]:
    """Letter -> text, of a list of texts or numbers. Raises FieldError for fewer than two, empty ones, and two that are the same."""
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= len(LETTERS):
        raise FieldError(name, f"must be a list of 2 to {len(LETTERS)} options, is {_told(value)}")
    return checked_options({LETTERS[i]: (f"{name}.{i}", v) for i, v in enumerate(value)})


def checked_options(found: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
    """Letter -> text, of letter -> (name of its field, value). Raises as ``options_of``."""
    options: dict[str, str] = {}
    for letter, (name, value) in found.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise FieldError(name, f"an option must be text, is {json_type(value)}")
        text = str(value).strip()
        if not text:
            raise FieldError(name, "the option is empty")
        same = next((other for other, known in options.items() if known == text), None)
        if same is not None:
            raise FieldError(name, f"is the same as option {same}: no answer could be told right or wrong")
        options[letter] = text
    return options


def written(question: str, options: Mapping[str, str], reason: bool = False, hint: str = "") -> str:
    """The question as the model reads it: the hint, the question, a line an option, and what is asked for, in the question's language.
    ``reason``: a reason comes before the letter."""
    lines = [hint.strip(), question.strip(), *(f"{letter}. {text}" for letter, text in options.items())]
    return "\n".join([*(line for line in lines if line), _ASKED[is_chinese(question, hint), reason]])


def answered(letter: str, reason: str, chinese: bool) -> str:
    """The answer that such a question asks for: the letter alone, or the reason and a last line with the letter."""
    return f"{reason.strip()}\n{'答案：' if chinese else 'Answer: '}{letter}" if reason.strip() else letter


def letter_of(name: str, value: Any, options: Mapping[str, str]) -> str:
    """The right option's letter: a letter in either case, or an option's whole text. Raises FieldError where it is neither."""
    text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if text.upper() in options:
        return text.upper()
    found = [letter for letter, option in options.items() if option == text]
    if not found:
        raise FieldError(name, f"{str(value)[:40]!r} is none of the options {', '.join(options)}")
    return found[0]


def _told(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, Sequence) and not isinstance(value, str) else json_type(value)
