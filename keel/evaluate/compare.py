"""Two models' answers to the same prompts, compared by several scorers: pure functions of plain records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.evaluate import measures, statistics
from keel.evaluate.measures import Distribution
from keel.evaluate.statistics import LEVEL, Interval
from keel.evaluate.turns import turn_row, turn_text

GOLD = "gold"
GOLD_CONTENT = "gold_content"  # the gold utility without its features of form, which rules of form may reward directly
REWARD_MODEL = "reward_model"


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer with its scores. A score that is missing or failed is None, never 0."""

    text: str
    gold: float | None = None
    reward_model: float | None = None
    rules: Mapping[str, float] = field(default_factory=dict[str, float])
    tokens: int | None = None
    errors: tuple[tuple[str, int, int], ...] | None = None  # what is made up: type, first and past-last character; None = not looked for
    coverage: float | None = None  # share of the truth that was told
    turns: tuple[Mapping[str, Any], ...] = ()  # of a conversation: rows of ``Conversation.told``; ``text`` is then the last answer

    @property
    def shown(self) -> str:
        """For people: all turns of a conversation, else the answer."""
        return "\n".join(f"{turn.get('role', '')}: {turn_text(turn)}" for turn in self.turns) if self.turns else self.text

    def score(self, scorer: str) -> float | None:
        """Score by ``gold``, ``reward_model`` or the name of a rule."""
        value = {GOLD: self.gold, REWARD_MODEL: self.reward_model}.get(scorer, self.rules.get(scorer))
        return value if value is not None and math.isfinite(value) else None

    @property
    def length(self) -> int:
        """Tokens when they were counted, words otherwise."""
        return len(measures.words(self.text)) if self.tokens is None else self.tokens


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """The baseline's and the trained model's answers to one prompt: one line of ``samples/evaluation.jsonl``."""

    prompt_id: str
    prompt: str
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]
    language: str = ""
    category: str = ""
    images: tuple[str, ...] = ()  # as the row names them

    def to_row(self) -> dict[str, Any]:
        """The plain record that is written."""

        def row(answer: Answer) -> dict[str, Any]:
            scores = {"gold": answer.gold, "reward_model": answer.reward_model, "rules": dict(answer.rules), "tokens": answer.tokens}
            scores |= {"errors": None if answer.errors is None else [list(e) for e in answer.errors], "coverage": answer.coverage}
            scores["turns"] = [dict(turn) for turn in answer.turns] or None
            return {"text": answer.text} | {k: v for k, v in scores.items() if v is not None and v != {}}

        head = {"prompt_id": self.prompt_id, "language": self.language, "category": self.category, "prompt": self.prompt}
        head |= {"images": list(self.images)} if self.images else {}
        return head | {"before": [row(a) for a in self.before], "after": [row(a) for a in self.after]}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> PromptAnswers:
        """The record of a plain row; raises KeyError on a missing field."""

        def answer(a: Mapping[str, Any]) -> Answer:
            errors = None if a.get("errors") is None else tuple((str(kind), int(first), int(end)) for kind, first, end in a["errors"])
            rules = {name: float(value) for name, value in (a.get("rules") or {}).items()}  # one that failed is written as "NaN"
            scores = (_number(a.get("gold")), _number(a.get("reward_model")), rules, a.get("tokens"))
            turns = tuple(turn_row(turn) for turn in a.get("turns") or ())
            return Answer(a["text"], *scores, errors, _number(a.get("coverage")), turns)

        text = {name: row.get(name) or "" for name in ("language", "category")}
        before, after = (tuple(answer(a) for a in row.get(side, ())) for side in ("before", "after"))
        return cls(row["prompt_id"], row["prompt"], before, after, **text, images=tuple(row.get("images", ())))


def _number(value: float | str | None) -> float | None:
    """A score as a file has it: what is no finite number stands there in words."""
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class TextMeasures:
    """Measures of one model's answers."""

    length: Distribution | None
    distinct_1: float | None
    distinct_2: float | None
    repetition: float


@dataclass(frozen=True, slots=True)
class ComparisonSummary:
    """Trained model against baseline. Keys of the mappings are scorers: ``gold``, ``reward_model`` and each rule.

    ``win_rates`` are the trained model's; a scorer without a score on both sides of any prompt is absent. ``gains`` are mean
    differences of scores, paired by prompt.
    """

    win_rates: Mapping[str, Interval]
    gains: Mapping[str, Interval]
    before: Mapping[str, Distribution]
    after: Mapping[str, Distribution]
    text_before: TextMeasures
    text_after: TextMeasures
    n_prompts: int
    level: float  # of every interval
    languages: tuple[str, ...]  # that were scored; empty = all

    def to_json(self) -> dict[str, Any]:
        """The fields of ``summary.json``; what was not measured is left out."""
        out: dict[str, Any] = {"n_prompts": self.n_prompts, "level": self.level, "languages": list(self.languages)}
        for scorer, interval in self.win_rates.items():
            if scorer == GOLD:
                out["win_rate"] = interval.to_json()
            elif scorer == GOLD_CONTENT:
                out["win_rate_gold_content"] = interval.to_json()
            elif scorer == REWARD_MODEL:
                out["win_rate_reward_model"] = interval.to_json()
            else:
                out.setdefault("win_rate_rules", {})[scorer] = interval.to_json()
        out["gain"] = {scorer: interval.to_json() for scorer, interval in self.gains.items()}
        for side, scores, text in (("before", self.before, self.text_before), ("after", self.after, self.text_after)):
            out[f"scores_{side}"] = {scorer: distribution.to_json() for scorer, distribution in scores.items()}
            if REWARD_MODEL in scores:
                out[f"reward_{side}"] = scores[REWARD_MODEL].mean
            if text.length is not None:
                out[f"length_{side}"] = text.length.mean
            named = {"distinct_1": text.distinct_1, "distinct_2": text.distinct_2, "repetition": text.repetition}
            out |= {f"{name}_{side}": value for name, value in named.items() if value is not None}
        return out


def scorers(rows: Iterable[PromptAnswers]) -> tuple[str, ...]:
    """Names of the scorers found: gold and reward model first, rules by name."""
    rules: set[str] = set()
    found: set[str] = set()
    for row in rows:
        for answer in (*row.before, *row.after):
            rules |= set(answer.rules)
            found |= {name for name in (GOLD, REWARD_MODEL) if answer.score(name) is not None}
    return tuple(name for name in (GOLD, REWARD_MODEL) if name in found) + tuple(sorted(rules))


def win_shares(rows: Iterable[PromptAnswers], scorer: str) -> dict[str, float]:
    """Share of pairings won by ``after``, by prompt id; prompts without a score on both sides are absent.

    Raises ValueError when a prompt id comes twice: its rows would be counted as independent.
    """
    shares: dict[str, float] = {}
    for row in rows:
        before, after = _scores(row.before, scorer), _scores(row.after, scorer)
        if row.prompt_id in shares:
            raise ValueError(f"prompt {row.prompt_id!r} stands twice among the answers")
        if before and after:
            shares[row.prompt_id] = statistics.pair_score(before, after)
    return shares


def compare(
    rows: Sequence[PromptAnswers],
    *,
    languages: Sequence[str] = (),
    level: float = LEVEL,
) -> ComparisonSummary:
    """Compare ``after`` with ``before`` on the prompts in ``languages`` (empty = all)."""
    kept = [row for row in rows if not languages or row.language in languages]
    win_rates: dict[str, Interval] = {}
    gains: dict[str, Interval] = {}
    before: dict[str, Distribution] = {}
    after: dict[str, Distribution] = {}
    for scorer in scorers(kept):
        shares = win_shares(kept, scorer)
        old = {row.prompt_id: _scores(row.before, scorer) for row in kept}
        new = {row.prompt_id: _scores(row.after, scorer) for row in kept}
        if shares:
            win_rates[scorer] = statistics.win_rate(shares, level=level)
            gains[scorer] = statistics.paired_difference(old, new, level=level)
        for target, by_prompt in ((before, old), (after, new)):
            distribution = measures.describe([value for values in by_prompt.values() for value in values])
            if distribution is not None:
                target[scorer] = distribution
    texts = (text_measures([a for row in kept for a in getattr(row, side)]) for side in ("before", "after"))
    return ComparisonSummary(win_rates, gains, before, after, *texts, n_prompts=len(kept), level=level, languages=tuple(languages))


def subsets(rows: Sequence[PromptAnswers], key: Callable[[PromptAnswers], str], **how: Any) -> dict[str, ComparisonSummary]:
    """One comparison for each value of ``key`` (language, category); keyword arguments are those of ``compare``."""
    names = sorted({key(row) for row in rows})
    return {name: compare([row for row in rows if key(row) == name], **how) for name in names}


def _scores(answers: Iterable[Answer], scorer: str) -> list[float]:
    return [value for answer in answers if (value := answer.score(scorer)) is not None]


def text_measures(answers: Sequence[Answer]) -> TextMeasures:
    """Length, variety and repetition of one model's answers."""
    texts = [answer.text for answer in answers]
    repeated = [measures.repetition(text) for text in texts]
    return TextMeasures(
        length=measures.describe([answer.length for answer in answers]),
        distinct_1=measures.distinct(texts, 1),
        distinct_2=measures.distinct(texts, 2),
        repetition=math.fsum(repeated) / len(repeated) if repeated else 0.0,
    )
