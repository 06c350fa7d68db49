"""A bonus for answers that are unlike the other good answers to their prompt, against a policy that always says the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keel.data.text import distinct
from keel.data.variety import differences, known_words
from keel.rewards.reading.thoughts import answer_of
from keel.rewards.score import SourceRow
from keel.rewards.settings import SourceConfig
from keel.types import Group

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch


class DiversityReward(SourceConfig):
    """0 to 1: how far an answer's words are from those of the other good answers to its prompt. An answer that `among` scores below
    `at_least` gets 0 and is not compared with: being different is worth nothing by itself."""

    type: Literal["diversity"] = Field(default="diversity", description="A bonus for good answers that differ from each other.")
    among: str = Field(min_length=1, description="Name of the reward that says which answers are good: only those get the bonus.")
    at_least: float = Field(default=0.5, description="Score of `among` from which on an answer is good.")
    enough: float = Field(
        default=0.5, gt=0, le=1, description="Mean difference (0: same words, 1: no word in common) that gets the whole bonus."
    )


@dataclass(frozen=True, slots=True)
class DiversitySource:
    """A ``types.RewardSource`` that is asked after the reward ``among``, whose scores it reads in the groups' ``parts``. ``details`` of the
    groups scored last, over all valid answers whether good or not: ``difference`` of each from the others of its group, and ``distinct``,
    the group's different pairs of words over all pairs. Thoughts before an answer are not read."""

    name: str
    among: str
    at_least: float = 0.5
    enough: float = 0.5
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Any]])

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group, in [0, 1]."""
        import torch

        texts = [[(answer_of(r.text) or "") if ok else "" for r, ok in zip(g.rollouts, g.valid_G.tolist(), strict=True)] for g in groups]
        known = known_words((g.prompt.last_user_text for g in groups), (t for of_group in texts for t in of_group))
        self.details.update({name: [torch.full((len(g.rollouts),), math.nan) for g in groups] for name in ("difference", "distinct")})
        scores: list[Tensor] = []
        for k, (group, said) in enumerate(zip(groups, texts, strict=True)):
            valid = [i for i, ok in enumerate(group.valid_G.tolist()) if ok]
            for i, value in zip(valid, differences([said[i] for i in valid], known), strict=True):
                self.details["difference"][k][i] = value
                self.details["distinct"][k][i] = distinct((said[j] for j in valid), 2)
            good = [i for i in valid if float(group.parts[self.among][i]) >= self.at_least]  # NaN: it failed, so it is not good
            found_G = torch.zeros(len(group.rollouts))
            for i, value in zip(good, differences([said[i] for i in good], known), strict=True):
                found_G[i] = min(1.0, value / self.enough)
            scores.append(found_G)
        return scores


def of_settings(config: DiversityReward, decode: object) -> DiversitySource:
    return DiversitySource(config.name, config.among, config.at_least, config.enough)


ROW = SourceRow(DiversityReward, of_settings)
