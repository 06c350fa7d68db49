"""A penalty for what an answer makes up, by type, due at the words that are wrong; and what saying the truth is worth beside it.

What is made up is found by a detector: it knows the truth of the row, looks at the picture, asks a model, or is a function of yours.
The numbers are settings. A penalty alone would be least for an answer that says nothing, so ``coverage`` pays for the share of the truth
that was told.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import UserError
from keel.rewards.checks import Verdict, drawn, write
from keel.rewards.detectors.choose import DetectorSettings
from keel.rewards.detectors.found import ERROR_TYPES, Detector, ErrorType, Found
from keel.rewards.score import Argument, Score, SourceRow, failure
from keel.rewards.settings import InputFile, SourceConfig
from keel.types import Group, ImagePart, Prompt, Rollout

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch

log = logging.getLogger("keel")


class PenaltyConfig(Section):
    """What one error of each type costs."""

    existence: float = Field(default=2.0, ge=0, description="An object that is not there.")
    count: float = Field(default=1.5, ge=0, description="A wrong number.")
    attribute: float = Field(default=1.0, ge=0, description="A wrong colour, size, material.")
    relation: float = Field(default=0.8, ge=0, description="A wrong place or action.")
    knowledge: float = Field(default=0.5, ge=0, description="A wrong fact about what is shown.")

    def of(self, kind: ErrorType) -> float:
        """The price of this type."""
        prices = (self.existence, self.count, self.attribute, self.relation, self.knowledge)
        return dict(zip(ERROR_TYPES, prices, strict=True))[kind]


class CheckConfig(Section):
    """A sample of the verdicts, written as tasks for people; `keel eval hallucination --agreement FILE` reads their answers."""

    file: str = Field(default="", description="File of tasks, which grows while training; empty = none are written.")
    share: float = Field(default=0.05, gt=0, le=1, description="Share of the verdicts, drawn by hash.")
    seed: int = Field(default=0, description="Of the draw.")

    @model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if self.changed and not self.file:
            raise ValueError(f"{min(self.changed)} would have no effect without a file")
        return self


class HallucinationReward(DetectorSettings, SourceConfig):
    """Minus the price of what an answer makes up: n errors of a type cost ``price * n^exponent`` times a factor that grows."""

    type: Literal["hallucination"] = Field(default="hallucination", description="A penalty for what is made up.")
    penalty: PenaltyConfig = Field(default=PenaltyConfig(), description="Price of one error, by type.")
    exponent: float = Field(default=1.2, gt=0, description="Of the number of errors of one type: above 1, many cost more than one each.")
    growth_steps: int = Field(default=10_000, ge=1, description="The factor is 1 + step / growth_steps ...")
    most: float = Field(default=2.0, ge=1, description="... and at most this; 1 = no growth.")
    coverage: float = Field(default=1.0, ge=0, description="Worth of telling the whole truth; silence earns nothing of it.")

    checks: CheckConfig = Field(default=CheckConfig(), description="Verdicts that people check.")

    def files(self) -> Iterator[InputFile]:
        yield from self.detector_files()

    def factor(self, step: int) -> float:
        """What the penalty of this step is multiplied by."""
        return min(self.most, 1.0 + step / self.growth_steps)


def penalty(errors: Sequence[tuple[str, int, int]], config: HallucinationReward) -> list[float]:
    """What each error costs, >= 0, before the factor of the step: its share of ``price * n^exponent`` of its type."""
    numbers = Counter(kind for kind, _, _ in errors)
    return [config.penalty.of(_type(kind)) * numbers[kind] ** (config.exponent - 1) for kind, _, _ in errors]


def _type(kind: str) -> ErrorType:
    if kind not in ERROR_TYPES:
        raise ValueError(f"a detector told an error of type {kind!r}; types are {', '.join(ERROR_TYPES)}")
    return cast(ErrorType, kind)


@dataclass(frozen=True, slots=True)
class HallucinationSource:
    """A ``types.RewardSource``. ``placed`` of the rollouts scored last, by their id: what is due at each token, an error's price at the
    token that ends it, the rest at the end. ``details``: counts by type, the penalty before its factor, and the coverage."""

    name: str
    config: HallucinationReward
    detect: Detector
    decode: Callable[[Tensor], str] | None = None
    placed: dict[int, Tensor] = field(default_factory=dict[int, Any])
    details: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Any]])

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN for rollouts that failed and where the detector failed. The step is the policy version that an
        answer was drawn from."""
        import torch

        names = (*(f"errors/{kind}" for kind in ERROR_TYPES), "unscaled", "coverage")
        self.details.update({name: [torch.full((len(g.rollouts),), math.nan) for g in groups] for name in names})
        scores = [torch.full((len(g.rollouts),), math.nan) for g in groups]
        verdicts: list[Verdict] = []
        asked = [(g, i, group.prompt, r) for g, group in enumerate(groups) for i, r in enumerate(group.rollouts) if group.valid_G[i]]
        for (g, i, prompt, rollout), found in zip(asked, self._all([(prompt, r.text) for _, _, prompt, r in asked]), strict=True):
            if found is None:
                continue
            verdicts.append(_verdict(prompt, rollout, found))
            for name, value in self._told(found).items():
                self.details[name][g][i] = value
            scores[g][i] = self._score(rollout, found)
        checks = self.config.checks
        if checks.file and (chosen := drawn(verdicts, checks.share, checks.seed)):
            write(Path(checks.file), chosen)
        return scores

    def judge(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score for each (prompt, answer), as at the first step; its reason names the words that are wrong."""
        scores: list[Score] = []
        for (_, text), found in zip(items, self._all(items), strict=True):
            if found is None:
                scores.append(failure("the detector failed: the log says how"))
                continue
            wrong = ", ".join(f"{kind}: {text[a:b]!r}" for kind, a, b in found.errors)
            worth = self.config.coverage * (found.coverage or 0.0)
            told = "" if found.coverage is None else f"coverage {found.coverage:.2f}"
            scores.append(Score(worth - sum(penalty(found.errors, self.config)), "; ".join(filter(None, (wrong, told)))))
        return scores

    def _all(self, items: Sequence[tuple[Prompt, str]]) -> list[Found | None]:
        """What the detector finds in each answer; a judge that waits for a server has several of them at work."""
        if self.config.detector != "judge" or len(items) < 2:
            return [self._found(prompt, text) for prompt, text in items]
        with ThreadPoolExecutor(min(self.config.judge.at_once, len(items))) as pool:
            return list(pool.map(lambda item: self._found(*item), items))

    def _found(self, prompt: Prompt, text: str) -> Found | None:
        try:
            found = self.detect(prompt, text)
            assert isinstance(found, Found), f"it returned {type(found).__name__}, not Found"
            for kind, _, _ in found.errors:
                _type(kind)
        except Exception as error:  # one bad sample must not end a run; composition decides what a failure means
            log.warning("reward %r: the detector failed: %s: %s", self.name, type(error).__name__, error)
            return None
        return found

    def _told(self, found: Found) -> Mapping[str, float]:
        numbers = Counter(kind for kind, _, _ in found.errors)
        counts = {f"errors/{kind}": float(numbers[kind]) for kind in ERROR_TYPES}
        return {
            **counts,
            "unscaled": -sum(penalty(found.errors, self.config)),
            "coverage": math.nan if found.coverage is None else found.coverage,
        }

    def _score(self, rollout: Rollout, found: Found) -> float:
        """The answer's score; what is due at its tokens is put down."""
        from keel.rewards.segments import placed, token_ends

        factor = self.config.factor(int(rollout.version_T.max()) if len(rollout) else 0)
        worth = self.config.coverage * (found.coverage or 0.0)
        costs = [-factor * cost for cost in penalty(found.errors, self.config)]
        if self.decode is not None and len(rollout):
            order = sorted(range(len(costs)), key=lambda i: found.errors[i][2])
            ends = token_ends(rollout, [found.errors[i][2] for i in order], self.decode)
            at, due = [*ends, len(rollout) - 1], [*(costs[i] for i in order), worth]
            self.placed[id(rollout)] = placed(rollout, at, due)
        return math.fsum([*costs, worth])


def _verdict(prompt: Prompt, rollout: Rollout, found: Found) -> Verdict:
    images = tuple(p.source for m in prompt.messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart))
    errors = [(kind, rollout.text[a:b]) for kind, a, b in found.errors]
    where = f"{prompt.prompt_id}/{rollout.attempt}/{rollout.sample}"
    return Verdict(where, rollout.text, ERROR_TYPES, errors, prompt.last_user_text, images)


def of_settings(config: HallucinationReward, decode: Callable[[Tensor], str] | None) -> HallucinationSource:
    """The source that the settings describe. Raises UserError for a detector that is not there."""
    try:
        return HallucinationSource(config.name, config, config.made(), decode)
    except UserError as error:
        raise UserError(f"reward '{config.name}': {error.message}", error.hint) from None


ROW = SourceRow(HallucinationReward, of_settings, Argument("detector", "FILE:NAME"))
