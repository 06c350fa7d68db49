"""Sources that read the answer's text alone: rules, verifiers and functions of the user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keel.types import Group, Prompt

log = logging.getLogger("keel")

TextReward = Callable[[Prompt, str], float]  # NaN = failed


class OnceLog:
    """Warnings, one for each kind: a reward that fails for every sample would otherwise fill the log. The counts are in the metrics."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, kind: str, message: str, *values: object) -> None:
        if kind not in self._said:
            self._said.add(kind)
            log.warning(message + " (said once)", *values)


@dataclass(frozen=True, slots=True)
class TextSource:
    """A ``RewardSource`` made of a function of prompt and text. Rollouts that failed are not shown to it and get NaN."""

    name: str
    function: TextReward

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group."""
        return [
            torch.tensor(
                [self.function(g.prompt, r.text) if valid else torch.nan for r, valid in zip(g.rollouts, g.valid_G.tolist(), strict=True)],
                dtype=torch.float32,
            )
            for g in groups
        ]
