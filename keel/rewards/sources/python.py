"""A user's Python function as a reward, ``fn(prompt: keel.types.Prompt, completion: str) -> float``, or as a comparison of two answers."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import Field

from keel.core.errors import UserError
from keel.core.python_file import load_object
from keel.rewards.score import Argument, Score, TextReward, TextRow, as_score, failure
from keel.rewards.settings import InputFile, IsolatedConfig, OnFailure, ScoringConfig, SegmentedConfig, WorkerConfig
from keel.types import Prompt


class PythonReward(SegmentedConfig, IsolatedConfig):
    """A function of yours: ``fn(prompt: keel.types.Prompt, completion: str) -> float``. It is run as it is: use files you trust."""

    type: Literal["python"] = Field(default="python", description="A Python function.")
    function: str = Field(pattern=r"^.+\.py:\w+$", description="FILE.py:NAME of the function.")

    def files(self) -> Iterator[InputFile]:
        yield InputFile("function", self.function.rpartition(":")[0])


class CompareConfig(ScoringConfig):
    """A function of yours: ``fn(prompt: keel.types.Prompt, first: str, second: str)`` returns the probability that the first is better
    (0.5: a tie), or "first", "second", "tie", or None where it cannot judge. It is run as it is: use files you trust."""

    function: str = Field(pattern=r"^.+\.py:\w+$", description="FILE.py:NAME of the function.")
    name: str = Field(default="judge", pattern=r"^[\w.-]+$", description="Its name in metrics and messages.")
    order: Literal["hash", "both"] = Field(
        default="hash",
        description="Which answer it sees first: either one, by hash of the two; or each once, and the mean is taken (twice the calls).",
    )
    on_failure: OnFailure | None = Field(
        default=None,
        description="A comparison that fails: retry (and drop the pair when that fails too), drop_sample (the pair), stop; "
        "empty = on_reward_failure.",
    )
    retries: int = Field(default=2, ge=1, description="How often a failed comparison is asked for again; read with on_failure=retry.")
    worker: WorkerConfig = Field(default=WorkerConfig(), description="The processes that it runs in.")

    def files(self) -> Iterator[InputFile]:
        yield InputFile("function", self.function.rpartition(":")[0])


def load_function(spec: str) -> Callable[..., Any]:
    """The function ``FILE.py:NAME``. Raises UserError when the file or the function is missing, or the file cannot be run."""
    return load_object(spec, "reward function")


def python_reward(spec: str) -> Callable[[Prompt, str], Score]:
    """The user's function with the contract kept: it returns a number, or a number and the reason for it; an exception is a failure (never
    a 0); a result that is no number raises UserError."""
    function = load_function(spec)

    def judge(prompt: Prompt, text: str) -> Score:
        try:
            value = function(prompt, text)
        except Exception as error:  # one bad sample must not end a run; composition decides what a failure means
            return failure(f"{type(error).__name__}: {error}")
        reason = ""
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
            value, reason = value
        if not isinstance(value, numbers.Real):
            raise UserError(
                f"reward function {spec} returned {type(value).__name__} for prompt {prompt.prompt_id}",
                "it must return one number, or a number and a reason: def fn(prompt, completion) -> float",
            )
        return value if isinstance(value, Score) else as_score(Score(float(value), reason))

    return judge


def of_settings(config: PythonReward) -> TextReward:
    """The function that the settings name. Raises UserError."""
    return python_reward(config.function)


ROW = TextRow(PythonReward, of_settings, Argument("function", "FILE:NAME"))


REFUSED = "no judgement"  # the reason of a comparison that the function declined
_OUTCOMES = {"first": 1.0, "second": 0.0, "tie": 0.5}


def python_comparison(config: CompareConfig) -> Callable[[Prompt, tuple[str, str]], Score]:
    """The user's function of two answers with the contract kept: the probability that the first one is better. None is a failure with the
    reason ``REFUSED``, an exception one without; a result that is nothing of the kind raises UserError."""
    function = load_function(config.function)

    def judge(prompt: Prompt, answers: tuple[str, str]) -> Score:
        try:
            value = function(prompt, *answers)
        except Exception as error:  # one bad pair must not end a run
            return failure(f"{type(error).__name__}: {error}")
        if value is None:
            return Score(reason=REFUSED, error="the function returned None")
        if isinstance(value, str):
            value = _OUTCOMES.get(value, value)
        if isinstance(value, numbers.Real) and math.isnan(value):
            return failure("the probability is nan")
        if not isinstance(value, numbers.Real) or not 0.0 <= float(value) <= 1.0:
            raise UserError(
                f"comparison {config.function} returned {value!r:.60} for prompt {prompt.prompt_id}",
                'it must return the probability that the first answer is better, "first", "second", "tie", or None',
            )
        return Score(float(value))

    return judge
