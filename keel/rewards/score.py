"""What a reward says of one answer: a number that remembers its reason, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from keel.rewards.reading.thoughts import answer_of
from keel.types import Prompt

NO_ANSWER = "the thought is not finished: there is no answer"


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


def of_answers(make: Callable[[Any], TextReward]) -> Callable[[Any], TextReward]:
    """For a function that makes a reward of its settings: the reward is shown answers without their thoughts, and an answer whose thought
    is not finished has score 0. Settings with ``thoughts=True`` are shown everything."""

    @wraps(make)
    def made(config: Any) -> TextReward:
        reward = make(config)
        if getattr(config, "thoughts", False):
            return reward

        def judge(prompt: Prompt, text: str) -> float:
            answer = answer_of(text)
            return Score(0.0, NO_ANSWER) if answer is None else reward(prompt, answer)

        return judge

    return made
