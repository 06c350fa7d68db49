"""Which of some words stand in an answer?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.data.text import count_keywords
from keel.rewards.score import Score, TextReward, TextRow, of_answers
from keel.rewards.settings import FormConfig, SegmentedConfig
from keel.types import Prompt


class ContainsReward(SegmentedConfig, FormConfig):
    """Share of the words that stand in the answer."""

    type: Literal["contains"] = Field(default="contains", description="Words are looked for.")
    words: list[str] = Field(min_length=1, description="Words or phrases, any language, in any case.")
    need: Literal["any", "all"] = Field(default="all", description="any: 1 when one of them stands there; all: the share of them.")


@of_answers
def contains(config: ContainsReward) -> TextReward:
    """The share of the words that stand in the text; with ``need="any"`` 1 as soon as one does."""

    def judge(_: Prompt, text: str) -> Score:
        found = count_keywords(text, config.words)
        value = float(len(found) > 0) if config.need == "any" else len(found) / len(set(config.words))
        return Score(value, f"found: {', '.join(found)}" if found else "none of the words")

    return judge


ROW = TextRow(ContainsReward, contains)
