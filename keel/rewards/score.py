"""What a reward says of one answer, a number that remembers its reason or why there is none; and what a kind of reward is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from keel.rewards.reading.thoughts import answer_of
from keel.rewards.settings import SourceConfig
from keel.types import Prompt, RewardSource

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
Split = Callable[[str], Sequence[tuple[int, int]]]  # where the parts of a text are


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


@dataclass(frozen=True, slots=True)
class Argument:
    """What follows the colon of ``keel score --reward TYPE:VALUE``: the setting that takes it, and its name in the help."""

    setting: str
    shown: str


@dataclass(frozen=True, slots=True)
class TextRow:
    """A kind of reward that reads an answer's text alone. ``make`` is a function of a module, so that worker processes can find it."""

    settings: type[SourceConfig]
    make: Callable[[Any], TextReward]
    argument: Argument | None = None


@dataclass(frozen=True, slots=True)
class PartsRow:
    """A kind of reward that finds parts in an answer by itself and judges each. Its settings have ``aggregate`` and ``none``."""

    settings: type[SourceConfig]
    judge: TextReward  # of one part
    split: Split
    argument: Argument | None = None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A kind of reward that reads more than text. ``source`` makes it of its settings and of what turns sampled tokens into text (None
    where nothing does); it is None where whoever loads models has to."""

    settings: type[SourceConfig]
    source: Callable[[Any, Callable[[Any], str] | None], RewardSource] | None = None
    argument: Argument | None = None


Row = TextRow | PartsRow | SourceRow
