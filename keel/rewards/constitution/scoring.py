"""How well answers keep the principles: rules, verifiers and a judge asked, their scores brought to [0, 1] and put together.

A verdict is a number that a rule, a verifier or the one place of a judge's reply gives. No text is ever searched for words like
"violates": "does not violate" holds it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keel.core.errors import ConfigError
from keel.judges.ask import Judge, Question, Said
from keel.judges.config import JudgesFile
from keel.judges.orders import Told, Verdict, verdicts
from keel.rewards.constitution.config import Constitution, JudgeScorer, Principle, RuleScorer, VerifierScorer
from keel.rewards.constitution.maths import Rule, Total, total_of
from keel.rewards.constitution.use import scale_of
from keel.rewards.reading.thoughts import answer_of
from keel.rewards.text import TextScorer
from keel.rewards.verifiers.rules import RulesReward
from keel.types import Candidate, Prompt

Item = tuple[Prompt, str]


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer. Where ``error`` is not empty there is no score: a principle that failed is no low score."""

    p: Mapping[str, float]  # by principle that applies
    total: Total
    rules: tuple[Rule, ...] = ()  # of the principles that apply
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    samples: tuple[float, ...] = ()  # the total by the judge's samples
    error: str = ""
    cost: float | None = 0.0  # of the judge's calls
    made: int = 0  # calls that were made and not found in a journal

    @property
    def score(self) -> float:
        return self.total.score


def unit(value: float, low: float, high: float) -> float:
    """Where ``value`` lies from ``low`` (0) to ``high`` (1), kept inside; ``high`` may be the smaller one."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


class Scorer:
    """Principles with whoever scores each. Raises UserError for rule files, verifiers and judges that cannot be used."""

    def __init__(
        self,
        constitution: Constitution,
        judge: Judge | None = None,
        scale: tuple[float, float] = (1.0, 5.0),
        samples: int = 1,
        keep: bool = False,
    ) -> None:
        """``keep``: shall ``heard`` grow by what the judge says? In RL nobody would ever empty it."""
        self.constitution, self.judge, self.scale, self.samples, self.keep = constitution, judge, scale, samples, keep
        if constitution.judged and judge is None:
            raise ConfigError("a principle is scored by a judge, and there is none", "name a judge")
        self._heard: dict[tuple[str, str, str], tuple[Prompt, str, Verdict]] = {}
        self._texts = {p.name: source for p in constitution.principles if p.weight > 0 and (source := _text_source(p)) is not None}

    @property
    def heard(self) -> list[tuple[Prompt, str, Verdict]]:
        """(prompt, answer, what the judge said of one principle), each once: an answer that is scored again in a later round is the same
        answer, and of what failed before the later verdict stands."""
        return list(self._heard.values())

    def questions(self, prompt: Prompt, text: str) -> list[Question]:
        """What the judge is asked about one answer: one question a principle."""
        sees = self.judge is not None and self.judge.sees_images
        answer, shown = Candidate("answer", answer_of(text) or ""), self.constitution.shown(prompt, sees)
        asked = [p for p in self.constitution.of(prompt) if isinstance(p.scorer, JudgeScorer)]
        return [Question(shown, (answer,), "rubric", p.text) for p in asked] if shown is not None else []

    def calls(self, prompt: Prompt) -> int:
        """Calls of the judge that an answer to this prompt takes."""
        return sum(isinstance(p.scorer, JudgeScorer) for p in self.constitution.of(prompt)) * self.samples

    def known(self, principle: Principle) -> bool:
        """Is the truth about it known: is it scored by a rule or a verifier?"""
        return principle.name in self._texts

    def by_rule(self, principle: Principle, items: Sequence[Item]) -> list[tuple[float, str, str]]:
        """(p, reason, error) of each answer by the rule or verifier that scores the principle."""
        said = self._texts[principle.name].judge(items) if items else []
        return [(_p_of(principle, float(s)), s.reason, s.error) for s in said]

    def score(self, items: Sequence[Item], told: Told | None = None) -> list[Scored]:
        """One result for each (prompt, answer); the same answer to the same prompt is asked about once."""
        unique = {(prompt.prompt_id, text): (prompt, text) for prompt, text in items}
        found = dict(zip(unique, self._score(list(unique.values()), told), strict=True))
        return [found[prompt.prompt_id, text] for prompt, text in items]

    def _score(self, items: Sequence[Item], told: Told | None) -> list[Scored]:
        applying = [self.constitution.of(prompt) for prompt, _ in items]
        by_rule: dict[tuple[int, str], tuple[float, str, str]] = {}
        for name in self._texts:
            principle = self.constitution.named(name)
            places = [i for i, principles in enumerate(applying) if principle in principles]
            by_rule |= {(i, name): found for i, found in zip(places, self.by_rule(principle, [items[i] for i in places]), strict=True)}
        asked = [(i, q) for i, (prompt, text) in enumerate(items) for q in self.questions(prompt, text)]
        said = verdicts(self.judge, [q for _, q in asked], self.samples, told) if asked and self.judge is not None else []
        if self.keep:
            self._remember([(*items[i], verdict) for (i, _), verdict in zip(asked, said, strict=True)])
        judged: dict[tuple[int, str], Verdict] = {(i, q.criterion): v for (i, q), v in zip(asked, said, strict=True)}
        return [self._one(i, applying[i], by_rule, judged) for i in range(len(items))]

    def _remember(self, said: Sequence[tuple[Prompt, str, Verdict]]) -> None:
        for prompt, text, verdict in said:
            key = (prompt.prompt_id, text.strip(), verdict.question.criterion)
            if key not in self._heard or self._heard[key][2].mean.error:
                self._heard[key] = (prompt, text, verdict)

    def _one(
        self,
        i: int,
        principles: Sequence[Principle],
        by_rule: Mapping[tuple[int, str], tuple[float, str, str]],
        judged: Mapping[tuple[int, str], Verdict],
    ) -> Scored:
        if not principles:
            return _failed("no principle applies: none is for this prompt's domain and language")
        rules = tuple(self.constitution.rule(p) for p in principles)
        p: dict[str, float] = {}
        reasons: dict[str, str] = {}
        errors: list[str] = []
        calls: list[Said] = []
        by_sample: list[dict[str, float]] = [{} for _ in range(self.samples)]
        for principle in principles:
            verdict = judged.get((i, principle.text))
            if verdict is None and isinstance(principle.scorer, JudgeScorer):
                errors.append("images: the judge reads text alone, and no column describes them (image_text)")
                continue
            if verdict is None:
                p[principle.name], reasons[principle.name], error = by_rule[i, principle.name]
                if math.isnan(p[principle.name]):
                    errors.append(f"{principle.name}: {error or 'no score'}")
                continue
            calls += [call for _, call in verdict.calls]
            if verdict.mean.error:
                errors.append(f"{principle.name}: {verdict.mean.error}")
                continue
            p[principle.name] = self._unit(verdict.mean, principle)
            for k, (_, call) in enumerate(verdict.calls):
                by_sample[k][principle.name] = p[principle.name] if call.error else self._unit(call, principle)
        costs = [c.cost for c in calls]
        cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
        made = sum(c.made for c in calls)
        if errors:
            return _failed("; ".join(errors)[:400], cost, made)
        how, floor = self.constitution.how, self.constitution.floor
        samples = tuple(total_of(p | sampled, rules, how, floor).score for sampled in by_sample) if calls else ()
        return Scored(p, total_of(p, rules, how, floor), rules, reasons, samples, "", cost, made)

    def _unit(self, said: Said, principle: Principle) -> float:
        return unit((said.scores or {})[principle.text], *self.scale)


def make_scorer(constitution: Constitution, judge: Judge | None, judges: JudgesFile | None, samples: int, keep: bool = False) -> Scorer:
    """A scorer whose judge is one of a file of judges, on that judge's scale."""
    scale = (1.0, 5.0) if judge is None or judges is None else scale_of(judge.name, judges)
    return Scorer(constitution, judge, scale, samples, keep)


def _failed(error: str, cost: float | None = 0.0, made: int = 0) -> Scored:
    return Scored({}, Total(math.nan, math.nan, 0, ()), error=error, cost=cost, made=made)


def _text_source(principle: Principle) -> TextScorer | None:
    from keel.rewards.build import text_source  # the table of rewards holds this room's

    match principle.scorer:
        case RuleScorer() as scorer:
            return text_source(RulesReward(name=principle.name, rules=scorer.read()))
        case VerifierScorer() as scorer:
            return text_source(scorer.verifier.model_copy(update={"name": principle.name}))
        case _:
            return None


def _p_of(principle: Principle, score: float) -> float:
    if math.isnan(score):
        return math.nan
    return (
        unit(score, principle.scorer.low, principle.scorer.high) if isinstance(principle.scorer, VerifierScorer) else unit(score, 0.0, 1.0)
    )
