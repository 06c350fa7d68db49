"""A price for answers that look made for the reward: 0 for one that does not, down to -1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from keel.data.gaming import LIMITS, gaming
from keel.rewards.score import Score, TextReward, TextRow, of_answers
from keel.rewards.settings import SourceConfig
from keel.types import Prompt


class GamingReward(SourceConfig):
    """0 for a plain answer, less for one that shows repetition, templates, stuffed keywords, padding, ignored instructions, needless detail
    or flattery. It is added: whatever the sign of the other rewards, it never takes off more than its weight."""

    type: Literal["gaming"] = Field(default="gaming", description="A price for answers that look made for the reward.")
    limits: dict[str, float] = Field(
        default_factory=lambda: dict(LIMITS), description="From where on a detector speaks, by its name; 0 or left out: not at all."
    )

    @field_validator("limits")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for name, limit in value.items():
            if name not in LIMITS:
                raise ValueError(f"no detector {name!r}: {', '.join(LIMITS)}")
            if not 0 <= limit <= 1:
                raise ValueError(f"{name}={limit:g} is no share: choose 0 to 1")
        return value


@of_answers
def priced(config: GamingReward) -> TextReward:
    """Minus the greatest share that is at its limit or above; 0 where none is. In [-1, 0]."""

    def judge(prompt: Prompt, text: str) -> Score:
        found = gaming(prompt.last_user_text, text, config.limits)
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        return Score(-min(1.0, max(found.values())), told) if found else Score(0.0, "nothing found")

    return judge


ROW = TextRow(GamingReward, priced)
