"""Is the whole answer the right one?"""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydantic import Field

from keel.rewards.score import Score, TextReward, TextRow, of_answers
from keel.rewards.settings import TruthConfig
from keel.rewards.verifiers.truth import short, with_truth


class ExactReward(TruthConfig):
    """1 when the answer is the right one, white space aside; else 0."""

    type: Literal["exact"] = Field(default="exact", description="The whole answer is compared.")
    ignore_case: bool = Field(default=True, description="Upper and lower case are the same.")


@of_answers
def exact(config: ExactReward) -> TextReward:
    """1 when text and truth are the same after NFKC, white space made single, and case dropped where asked; else 0."""

    def normal(text: str) -> str:
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        return text.casefold() if config.ignore_case else text

    def judge(text: str, truth: str) -> Score:
        return Score(1.0, "the same") if normal(text) == normal(truth) else Score(0.0, f"not {short(truth)}")

    return with_truth(config.truth, judge)


ROW = TextRow(ExactReward, exact)
