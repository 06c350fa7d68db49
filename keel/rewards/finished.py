"""Did the answer come to its end? The text alone cannot say: a sentence may end where the length limit fell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.types import Group


@dataclass(frozen=True, slots=True)
class FinishedSource:
    """1 for an answer that ended by itself, 0 for one cut off at the length limit. With weight w this is a penalty of w for a missing end
    token; without one, a reward model that reads cut-off answers kindly teaches the policy never to stop."""

    name: str

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed."""
        value = {"stop": 1.0, "length": 0.0}
        return [torch.tensor([value.get(r.finish_reason, torch.nan) for r in g.rollouts]) for g in groups]
