"""A judge as reward: a score of each answer, or how often it beats the others of its prompt. Without a passed report it is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keel.core.errors import ConfigError
from keel.judges.ask import OVERALL, Judge, Question
from keel.judges.config import JudgeUse
from keel.judges.orders import verdicts
from keel.rewards.reading.thoughts import answer_of
from keel.rewards.score import Argument, Score, SourceRow, failure
from keel.rewards.settings import InputFile, SourceConfig
from keel.rewards.text import OnceLog, score_texts
from keel.types import Candidate, Group, Prompt

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch


class JudgeReward(SourceConfig, JudgeUse):
    """A judge: a model that reads question and answer and says how good it is."""

    type: Literal["judge"] = Field(default="judge", description="A judge.")
    how: Literal["pointwise", "pairwise"] = Field(
        default="pointwise",
        description="pointwise = a score of each answer, on its template's scale; pairwise = the share of the prompt's other answers that "
        "it beats, each pair asked in both orders: G (G - 1) calls a prompt.",
    )
    samples: int = Field(default=1, ge=1, description="How often each order is asked.")

    def files(self) -> Iterator[InputFile]:
        for key, path, is_model in self.judge_files(""):
            yield InputFile(key, path, is_model)


@dataclass(frozen=True, slots=True)
class JudgeSource:
    """A ``types.RewardSource``. ``admitted``: what the manifest is told of the judge. Answers are shown without their thoughts."""

    name: str
    config: JudgeReward
    judged_by: Judge
    admitted: Mapping[str, Any] = field(default_factory=dict[str, Any])
    warn: OnceLog = field(default_factory=OnceLog, repr=False, compare=False)

    def judge(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score for each (prompt, answer). Raises ConfigError where answers are to be compared: there is nothing to compare with."""
        if self.config.how == "pairwise":
            raise ConfigError(
                f"reward '{self.name}': how=pairwise compares the answers of one prompt, here each stands alone", "how=pointwise"
            )
        questions = [Question(prompt, (_shown("answer", text),), "pointwise") for prompt, text in items]
        found = verdicts(self.judged_by, questions, self.config.samples)
        return [failure(v.mean.error) if v.mean.error else Score((v.mean.scores or {})[OVERALL], v.calls[0][1].text[:500]) for v in found]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN where the judge failed."""
        if self.config.how == "pointwise":
            return score_texts(self, groups, self.warn)
        import torch

        pairs = [(g, i, j) for g, group in enumerate(groups) for i, j in itertools.combinations(_valid(group), 2)]
        open_pairs = [(g, i, j) for g, i, j in pairs if groups[g].rollouts[i].text != groups[g].rollouts[j].text]
        asked = [_pair(groups[g], i, j) for g, i, j in open_pairs]
        said = dict(zip(open_pairs, verdicts(self.judged_by, asked, self.config.samples), strict=True))
        wins: dict[tuple[int, int], list[float]] = {}
        for g, i, j in pairs:
            verdict = said.get((g, i, j))
            if verdict is not None and verdict.mean.error:
                self.warn(verdict.mean.error.partition(":")[0], "reward %s failed: %s", self.name, verdict.mean.error)
            share = 0.5 if verdict is None else (1.0 + verdict.mean.lead) / 2.0  # of the same text nobody is asked
            wins.setdefault((g, i), []).append(share)
            wins.setdefault((g, j), []).append(1.0 - share)
        result = [torch.full((len(group.rollouts),), math.nan) for group in groups]
        for (g, i), shares in wins.items():
            known = [s for s in shares if math.isfinite(s)]
            if 2 * len(known) >= len(shares):  # of fewer the mean would be that of a chance choice of opponents
                result[g][i] = math.fsum(known) / len(known) if known else math.nan
        return result


def _valid(group: Group) -> list[int]:
    return [i for i, valid in enumerate(group.valid_G.tolist()) if valid]


def _pair(group: Group, i: int, j: int) -> Question:
    return Question(group.prompt, (_shown(str(i), group.rollouts[i].text), _shown(str(j), group.rollouts[j].text)))


def _shown(name: str, text: str) -> Candidate:
    """What the judge reads: the answer behind the thought, nothing where the thought has no end."""
    return Candidate(name, answer_of(text) or "")


def of_settings(config: JudgeReward, decode: object) -> JudgeSource:
    """The source that the settings describe. Raises UserError for a judge that is not there or may not be a reward."""
    from keel.judges.build import make_judge, read_judges  # with numpy, which settings are read without
    from keel.judges.gate import admit

    try:
        judge = make_judge(config.judge, read_judges(config.judges))
        admitted = admit(judge, config.report, config.override, "a reward")
    except ConfigError as error:
        raise ConfigError(f"reward '{config.name}': {error.message}", error.hint) from None
    return JudgeSource(config.name, config, judge, admitted)


ROW = SourceRow(JudgeReward, of_settings, Argument("judge", "NAME"))
