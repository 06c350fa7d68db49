"""A constitution as reward: how well an answer keeps the principles, in bands of priority. Without a passed report its judge is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from keel.core.errors import ConfigError
from keel.rewards.constitution.use import ConstitutionUse
from keel.rewards.score import Argument, Score, SourceRow, failure
from keel.rewards.settings import InputFile, SourceConfig
from keel.rewards.text import OnceLog
from keel.types import Group, Prompt

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch

    from keel.rewards.constitution.scoring import Scored, Scorer


class ConstitutionReward(SourceConfig, ConstitutionUse):
    """How well an answer keeps the principles of a constitution. Beside it in the metrics: each principle's p under its name, `level`
    (bands kept, the highest first), `broken` (principles broken), `flat` (the score without bands), and `overruled` (1 where bands alone
    put another answer of the group above or below it)."""

    type: Literal["constitution"] = Field(default="constitution", description="Principles.")

    def files(self) -> Iterator[InputFile]:
        for key, path, is_model in self.used_files():
            yield InputFile(key, path, is_model)


@dataclass(frozen=True, slots=True)
class ConstitutionSource:
    """A ``types.RewardSource``. ``details`` of the groups scored last; ``admitted``: what the manifest is told of the judge."""

    name: str
    scorer: Scorer
    admitted: Mapping[str, Any] = field(default_factory=dict[str, Any])
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Any]])
    warn: OnceLog = field(default_factory=OnceLog, repr=False, compare=False)

    def judge(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score for each (prompt, answer); the reason names what is broken."""
        return [_score(found) for found in self.scorer.score(items)]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN where a principle could not be scored."""
        import torch

        places = [(g, i) for g, group in enumerate(groups) for i, valid in enumerate(group.valid_G.tolist()) if valid]
        found = self.scorer.score([(groups[g].prompt, groups[g].rollouts[i].text) for g, i in places])
        names = [*(p.name for p in self.scorer.constitution.principles if p.weight > 0), "level", "broken", "flat", "overruled"]
        self.details.clear()
        self.details.update({name: [torch.full((len(g.rollouts),), math.nan) for g in groups] for name in names})
        result = [torch.full((len(g.rollouts),), math.nan) for g in groups]
        for (g, i), scored in zip(places, found, strict=True):
            if scored.error:
                self.warn(
                    scored.error.partition(":")[0], "reward %s failed for %s: %s", self.name, groups[g].prompt.prompt_id, scored.error
                )
                continue
            result[g][i] = scored.score
            others = [s for (h, _), s in zip(places, found, strict=True) if h == g and not s.error]
            told = {"level": scored.total.level, "broken": len(scored.total.broken), "flat": scored.total.flat}
            for name, value in {**scored.p, **told, "overruled": float(any(overruled(scored, o) for o in others))}.items():
                self.details[name][g][i] = value
        return result


def overruled(a: Scored, b: Scored) -> bool:
    """Would the order of two answers turn if there were no bands?"""
    return (a.total.score - b.total.score) * (a.total.flat - b.total.flat) < 0


def _score(found: Scored) -> Score:
    if found.error:
        return failure(found.error)
    broken = [f"{name} {found.p[name]:.2g}" + (f" ({why})" if (why := found.reasons.get(name)) else "") for name in found.total.broken]
    return Score(found.score, "breaks " + ", ".join(broken) if broken else "keeps all principles")


def of_settings(config: ConstitutionReward, decode: object) -> ConstitutionSource:
    """The source that the settings describe. Raises UserError for principles or a judge that cannot be used."""
    from keel.judges.build import make_judge, read_judges  # with numpy, which settings are read without
    from keel.rewards.constitution.scoring import make_scorer

    try:
        found, judge, admitted = config.admitted(lambda file, name: make_judge(name, read_judges(file)), "a reward")
        scorer = make_scorer(found, judge, read_judges(config.judges) if judge is not None else None, config.samples)
    except ConfigError as error:
        raise ConfigError(f"reward '{config.name}': {error.message}", error.hint) from None
    return ConstitutionSource(config.name, scorer, admitted)


ROW = SourceRow(ConstitutionReward, of_settings, Argument("path", "FILE_OR_NAME"))
