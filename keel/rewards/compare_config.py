"""Settings of a function that compares two answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.core.config import Section
from keel.rewards.settings import OnFailure, WorkerConfig


class CompareConfig(Section):
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
