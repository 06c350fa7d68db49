"""Rewards of parts of an answer (sentences, paragraphs, lines, steps, tokens): one score of the whole, and where each part is due."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from keel.data.text import spans
from keel.rewards.reading.thoughts import answer_span
from keel.rewards.score import Score, Split, failure
from keel.rewards.settings import Aggregate, SegmentsConfig
from keel.rewards.sources.model import Ending, Standardiser, units_of
from keel.rewards.text import Item, OnceLog, TextScorer, score_texts
from keel.types import Group, Rollout, StepsTarget, Unit

Decode = Callable[[Tensor], str]
StepScorer = Callable[[Sequence[Unit]], Sequence[tuple[Tensor, ...]]]  # ``LocalInference.steps``


def splitter(config: SegmentsConfig) -> Split:
    """The parts that the settings ask for; the whole text where there is none."""
    assert config.by != "token", "tokens are no parts of a text"
    by = config.by
    return lambda text: spans(text, by) or [(0, len(text))]


def in_answers(split: Split) -> Split:
    """``split`` of what follows the last thought; one empty part where a thought is not finished, so that there is no answer."""

    def parts(text: str) -> Sequence[tuple[int, int]]:
        span = answer_span(text)
        if span is None:
            return [(len(text), len(text))]
        return [(span[0] + a, span[0] + b) for a, b in split(text[span[0] : span[1]])]

    return parts


def shares(scores: Sequence[float], how: Aggregate) -> list[float]:
    """What each part is due; the sum is the answer's score. mean: each part's score over their number; sum: its score; min: the least, all
    of it at the first part that has it (Cheng et al. 2025, arXiv:2504.15275, value a chain by its worst step); last: the last one, at
    its place."""
    assert scores, "there is a part"
    match how:
        case "mean":
            return [s / len(scores) for s in scores]
        case "sum":
            return list(scores)
        case "min":
            worst = min(range(len(scores)), key=lambda i: scores[i])
            return [s if i == worst else 0.0 for i, s in enumerate(scores)]
        case "last":
            return [0.0] * (len(scores) - 1) + [scores[-1]]


def token_ends(rollout: Rollout, ends: Sequence[int], decode: Decode) -> list[int]:
    """The token by which each end (a count of characters of ``rollout.text``) is reached. Text grows with tokens, so it is looked for by
    halves."""
    tokens_T = rollout.tokens_T
    text = decode(tokens_T)
    start = max(0, text.find(rollout.text) if rollout.conversation is None else text.rfind(rollout.text))  # a conversation's last answer
    found: list[int] = []
    for end in ends:
        low, high = found[-1] if found else 0, len(tokens_T) - 1
        while low < high:
            middle = (low + high) // 2
            if len(decode(tokens_T[: middle + 1])) >= start + end:
                high = middle
            else:
                low = middle + 1
        found.append(low)
    return found


def placed(rollout: Rollout, at: Sequence[int], due: Sequence[float]) -> Tensor:
    """What is due at each token, float32 [T]: at the last sampled token up to ``at``, the first one where none comes before."""
    sampled = rollout.sampled_T.nonzero()[:, 0]
    found_T = torch.zeros(len(rollout))
    for t, value in zip(at, due, strict=True):
        before = sampled[sampled <= t]
        found_T[before[-1] if len(before) else sampled[0]] += value
    return found_T


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judge that has judged already: the scores of the answers that it will be shown, in order."""

    name: str
    scores: list[Score]

    def judge(self, items: Sequence[Item]) -> list[Score]:
        assert len(items) == len(self.scores), "these are the scores of other answers"
        return self.scores


@dataclass(frozen=True, slots=True)
class SegmentedText:
    """A source that scores the parts of an answer one by one. ``placed`` of the rollouts scored last, by their id: what is due at each
    token; empty without ``decode``. ``none``: the score of a text without parts."""

    inner: TextScorer
    split: Split
    how: Aggregate
    decode: Decode | None = None
    none: float = math.nan
    placed: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    warn: OnceLog = field(default_factory=OnceLog, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.inner.name

    def judge(self, items: Sequence[Item]) -> list[Score]:
        """One score for each (prompt, answer)."""
        return [self._whole(of) for _, of in self._parts(items)]

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group. Each part is judged once: what is due at tokens and the whole are of the same scores, also of a judge
        that would say something else the second time."""
        valid = [(g, r) for g in groups for r, ok in zip(g.rollouts, g.valid_G.tolist(), strict=True) if ok]
        parts = self._parts([(g.prompt, r.text) for g, r in valid])
        result = score_texts(_Judged(self.name, [self._whole(of) for _, of in parts]), groups, self.warn)
        if self.decode is None:
            return result
        for (_, rollout), (ends, scores) in zip(valid, parts, strict=True):
            if scores and not any(map(math.isnan, scores)):
                self.placed[id(rollout)] = placed(rollout, token_ends(rollout, ends, self.decode), shares(scores, self.how))
        return result

    def _parts(self, items: Sequence[Item]) -> list[tuple[list[int], list[Score]]]:
        """Where the parts of each answer end, and their scores."""
        found = [list(self.split(text)) for _, text in items]
        asked = [(prompt, text[a:b]) for (prompt, text), of in zip(items, found, strict=True) for a, b in of]
        scores = iter(self.inner.judge(asked))
        return [([b for _, b in of], [next(scores) for _ in of]) for of in found]

    def _whole(self, scores: Sequence[Score]) -> Score:
        if not scores:
            return Score(self.none, "no parts") if math.isfinite(self.none) else failure("the answer has no parts to judge")
        if failed := [s.error or "not finite" for s in scores if not math.isfinite(s)]:
            return failure(failed[0])
        told = ", ".join(f"{float(s):.3g}" for s in scores)
        return Score(math.fsum(shares(scores, self.how)), f"{self.how} of {told}")


@dataclass(frozen=True, slots=True)
class SegmentedModel:
    """A reward model that is read at the end of each part of an answer: a process reward model at its steps, any one at tokens. ``placed``
    as in ``SegmentedText``."""

    repeats: ClassVar[bool] = True  # asked again it would say the same

    name: str
    steps: StepScorer
    ending: Ending
    config: SegmentsConfig
    decode: Decode
    standardiser: Standardiser = Standardiser()  # noqa: RUF009 - frozen
    placed: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group, each part standardised; NaN for rollouts that failed and for scores that are not finite."""
        found = [units_of(g, self.ending) for g in groups]
        asked = [(g, unit, used) for g, (unit, used) in zip(groups, found, strict=True) if unit is not None]
        ends = [[self._ends(g.rollouts[i]) for i in used] for g, _, used in asked]
        scored = iter(self.steps([_with_steps(unit, of) for (_, unit, _), of in zip(asked, ends, strict=True)]))
        places = iter(ends)
        result = [torch.full((len(g.rollouts),), torch.nan) for g in groups]
        for group, out_G, (unit, used) in zip(groups, result, found, strict=True):
            if unit is None:
                continue
            for i, at, scores_N in zip(used, next(places), next(scored), strict=True):
                values = [float(s) for s in self.standardiser(scores_N.float())]
                if all(map(math.isfinite, values)):
                    due = shares(values, self.config.aggregate)
                    out_G[i] = math.fsum(due)
                    self.placed[id(group.rollouts[i])] = placed(group.rollouts[i], at, due)
        return result

    def _ends(self, rollout: Rollout) -> list[int]:
        """The last token of each part; parts that end within one token are read once. A part that a line break follows ends with the
        break, as the steps of training do."""
        if self.config.by == "token":
            return [int(t) for t in rollout.sampled_T.nonzero()[:, 0]]
        ends = token_ends(rollout, [_with_break(rollout.text, b) for _, b in splitter(self.config)(rollout.text)], self.decode)
        return sorted(set(ends))


def _with_break(text: str, end: int) -> int:
    """``end``, or where the line break behind it ends, if nothing but blanks stands between."""
    blanks = len(text[end:]) - len(text[end:].lstrip(" \t\r"))
    return end + blanks + 1 if text[end + blanks :].startswith("\n") else end


def _with_steps(unit: Unit, ends: Sequence[Sequence[int]]) -> Unit:
    """Read at these tokens; at the last part where the whole answer ends, which is where a reward model has learnt to give its score."""
    at = tuple((*of[:-1], len(branch) - 1) for of, branch in zip(ends, unit.branches, strict=True))
    return replace(unit, target=StepsTarget(at, tuple((False,) * len(of) for of in at)))
