"""Sources that read the answer's text alone: rules, verifiers and functions of the user."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keel.rewards.score import Score, TextReward, as_score
from keel.types import Group, Prompt

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch

log = logging.getLogger("keel")

Item = tuple[Prompt, str]


class OnceLog:
    """Warnings, one for each kind: a reward that fails for every sample would otherwise fill the log. The counts are in the metrics."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, kind: str, message: str, *values: object) -> None:
        if kind not in self._said:
            self._said.add(kind)
            log.warning(message + " (said once)", *values)


class TextScorer(Protocol):
    """Whatever scores answers by their text: a function in this process, worker processes, a cache before either."""

    @property
    def name(self) -> str: ...

    def judge(self, items: Sequence[Item]) -> list[Score]:
        """One score for each (prompt, answer), in order."""
        ...


def score_texts(source: TextScorer, groups: Sequence[Group], warn: OnceLog) -> list[Tensor]:
    """float32 [G] for each group. Rollouts that failed are not shown to ``source`` and get NaN; why a score failed is logged, once for each
    kind of failure."""
    import torch

    places = [(g, i) for g, group in enumerate(groups) for i, valid in enumerate(group.valid_G.tolist()) if valid]
    items = [(groups[g].prompt, groups[g].rollouts[i].text) for g, i in places]
    result = [torch.full((len(group.rollouts),), torch.nan) for group in groups]
    for (g, i), (prompt, _), score in zip(places, items, source.judge(items), strict=True):
        result[g][i] = float(score)
        if score.error:
            kind = score.error.partition(":")[0]
            warn(kind, "reward %s failed for prompt %s (%s): %s", source.name, prompt.prompt_id, prompt.source_id, score.error)
    return result


@dataclass(frozen=True, slots=True)
class TextSource:
    """A ``RewardSource`` made of a function of prompt and text, called in this process."""

    name: str
    function: TextReward
    warn: OnceLog = field(default_factory=OnceLog, repr=False, compare=False)

    def judge(self, items: Sequence[Item]) -> list[Score]:
        """One score for each (prompt, answer)."""
        return [as_score(self.function(prompt, text)) for prompt, text in items]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group."""
        return score_texts(self, groups, self.warn)
