"""What a reward says of one answer: a number that remembers its reason, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from keel.types import Prompt


class Score(float):
    """A score with the reason for it, in words. NaN is a failure, and ``error`` says of what: no score is never a low score."""

    __slots__ = ("error", "reason")

    reason: str
    error: str

    def __new__(cls, value: float = math.nan, reason: str = "", error: str = "") -> Score:
        score = super().__new__(cls, value)
        score.reason, score.error = reason, error
        return score


def failure(error: str) -> Score:
    """No score: the reward failed, the answer may be good or bad."""
    return Score(math.nan, error=error)


def as_score(value: float) -> Score:
    """``value`` with a reason, where it has none an empty one. A number that is not finite is a failure."""
    score = value if isinstance(value, Score) else Score(value)
    return score if math.isfinite(score) or score.error else failure(f"the score is {float(score)}")


TextReward = Callable[[Prompt, str], float]  # a Score, or a plain number; NaN = failed
Judge = Callable[[Sequence[tuple[Prompt, str]]], Sequence[Score]]  # many answers at once
