"""Did the answer come to its end? The text alone cannot say: a sentence may end where the length limit fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from keel.rewards.score import SourceRow
from keel.rewards.settings import SourceConfig
from keel.types import Group

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch


class FinishedReward(SourceConfig):
    """1 for an answer that ended by itself, 0 for one cut off at the length limit: its weight is the price of a missing end token."""

    type: Literal["finished"] = Field(default="finished", description="Whether the answer came to its end.")


@dataclass(frozen=True, slots=True)
class FinishedSource:
    """1 for an answer that ended by itself, 0 for one cut off at the length limit. With weight w this is a penalty of w for a missing end
    token; without one, a reward model that reads cut-off answers kindly teaches the policy never to stop."""

    name: str

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed."""
        import torch

        value = {"stop": 1.0, "length": 0.0}
        return [torch.tensor([value.get(r.finish_reason, torch.nan) for r in g.rollouts]) for g in groups]


def of_settings(config: FinishedReward, decode: object) -> FinishedSource:
    return FinishedSource(config.name)


ROW = SourceRow(FinishedReward, of_settings)
