"""Rows of small data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
_TEXT = "tent rope stove boot map lamp coat sock bag mat axe cup hat glove knife pot tarp peg fuel bar pole net line ring"
WORDS = _TEXT.split()


def question(i: int) -> str:
    return f"What about the {WORDS[i % 24]} and the {WORDS[(i * 7 + i // 24) % 24]} of shelf {i}?"


def answer(i: int, words: int) -> str:
    return " ".join(WORDS[(i + k) % 24] for k in range(words))


def pair(i: int, first: int = 6, second: int = 6) -> Row:
    """Two answers of different words; which of them is longer is up to the caller."""
    return {"prompt": question(i), "chosen": "Yes, " + answer(i, first), "rejected": "No, " + answer(i + 3, second)}


def votes(i: int, outcomes: Sequence[str]) -> list[Row]:
    common = {"prompt": question(i), "candidates": ["Yes, " + answer(i, 6), "No, " + answer(i + 3, 6)]}
    return [{**common, "outcome": outcome, "annotator_id": f"ann{k}"} for k, outcome in enumerate(outcomes)]
