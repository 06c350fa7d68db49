"""One of several verifiers decides, another one at another step: what one of them lets through is not paid for long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from keel.rewards.score import SourceRow
from keel.rewards.settings import SourceConfig
from keel.types import Group

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch


class RotatingReward(SourceConfig):
    """The score of one of the rewards `among`, which stand beside it with weight 0: drawn by step and prompt, the same for all answers to a
    prompt. Ask the same thing in other words, of other judges, with other parameters."""

    type: Literal["rotating"] = Field(default="rotating", description="The score of one of several rewards, another one by turns.")
    among: tuple[str, ...] = Field(min_length=2, description="Names of these rewards; all of them score every answer, and are measured.")
    every: int = Field(default=1, ge=1, description="Steps for which a prompt's draw stays.")

    @field_validator("among")
    @classmethod
    def _differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice: it would be drawn more often")
        return names


@dataclass(frozen=True, slots=True)
class RotatingSource:
    """A ``types.RewardSource`` that is asked after the rewards ``among``. ``details``: ``spread``, by how much they differ about an answer:
    where one of them leaks it grows. Held-out answers are always drawn for step 0: what measures stays the same."""

    name: str
    among: tuple[str, ...]
    every: int = 1
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Any]])

    def drawn(self, group: Group) -> str:
        """Whose score counts for this group."""
        from keel.core.hashing import stable_hash  # numpy: not for those who only read the table of rewards

        step = group.rollouts[0].attempt // self.every if group.rollouts else 0
        return self.among[stable_hash("rotating", self.name, step, group.prompt.prompt_id) % len(self.among)]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group."""
        import torch

        spreads: list[Tensor] = []
        for group in groups:
            said_NG = torch.stack([group.parts[name] for name in self.among])
            spreads.append(torch.where(group.valid_G, said_NG.amax(0) - said_NG.amin(0), math.nan))
        self.details["spread"] = spreads
        return [group.parts[self.drawn(group)] for group in groups]


def of_settings(config: RotatingReward, decode: object) -> RotatingSource:
    return RotatingSource(config.name, config.among, config.every)


ROW = SourceRow(RotatingReward, of_settings)
