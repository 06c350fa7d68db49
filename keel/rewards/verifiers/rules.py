"""Rule sets: format, length, required elements, forbidden things; each rule readable in a YAML file, English and Chinese alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.core import config as loader
from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.data.text import char_count, count_keywords, language, sentences, word_count
from keel.rewards.reading.thoughts import answer_of
from keel.rewards.score import NO_ANSWER, Argument, Score, TextReward, TextRow
from keel.rewards.settings import FormConfig, InputFile, IsolatedConfig, SegmentedConfig, WorkerConfig, compiles
from keel.types import Prompt

FormatCheck = Literal["finished", "plain", "no_role_marks", "newline", "list", "bold", "two_sentences"]


class FormatRules(Section):
    """Points for what the text looks like."""

    weight: float = Field(default=1.0, gt=0, description="Share of the format among the rules.")
    checks: dict[FormatCheck, float] = Field(
        min_length=1,
        description="Points by check: finished (ends with sentence punctuation), plain (no Markdown), no_role_marks (speaks for nobody "
        "else), newline, list, bold, two_sentences (two or more).",
    )

    @field_validator("checks")
    @classmethod
    def _positive(cls, value: dict[FormatCheck, float]) -> dict[FormatCheck, float]:
        if min(value.values()) <= 0:
            raise ValueError("points must be above 0; leave a check out to ignore it")
        return value


class Band(Section):
    """A range of lengths and its score."""

    low: int = Field(default=0, ge=0, description="Shortest length of the band.")
    high: int | None = Field(default=None, ge=0, description="Longest length of the band; empty = no limit.")
    score: float = Field(ge=0, le=1, description="Score of a text in this band.")

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if self.high is not None and self.high < self.low:
            raise ValueError(f"a band from {self.low} to {self.high} is empty")
        return self


class LengthRules(Section):
    """Score by length; the first band that holds the length counts."""

    weight: float = Field(default=1.0, gt=0, description="Share of the length among the rules.")
    unit: Literal["words", "characters"] = Field(
        default="words", description="What is counted; of Chinese, each character is a word. White space does not count."
    )
    bands: list[Band] = Field(min_length=1, description="Bands for every language that has none of its own.")
    bands_by_language: dict[str, list[Band]] = Field(default={}, description="Bands of their own for texts in a language: {zh: [...]}.")
    otherwise: float = Field(default=0.0, ge=0, le=1, description="Score of a length outside all bands.")


class Element(Section):
    """Something the text should have: one of the words is enough."""

    name: str = Field(description="Name of the element.")
    any: list[str] = Field(min_length=1, description="Words or phrases, any language; one of them is enough.")
    points: float = Field(default=1.0, gt=0, description="Points of the element.")


class ElementRules(Section):
    """Points for required elements, each a group of words."""

    weight: float = Field(default=1.0, gt=0, description="Share of the elements among the rules.")
    groups: list[Element] = Field(min_length=1, description="The elements.")
    enough: float | None = Field(default=None, gt=0, description="Points that count as complete; empty = the points of all elements.")


class Forbidden(Section):
    """Something the text must not have."""

    name: str = Field(description="Name of what is forbidden.")
    words: list[str] = Field(default=[], description="Words or phrases, any language, in any case.")
    patterns: list[str] = Field(default=[], description="Regular expressions, in any case.")
    cost: float = Field(default=1.0, gt=0, le=1, description="What is taken off the score, once; 1 makes it 0.")

    @field_validator("patterns")
    @classmethod
    def _regular(cls, value: list[str]) -> list[str]:
        return [compiles(p) for p in value]

    @model_validator(mode="after")
    def _something(self) -> Forbidden:
        if not self.words and not self.patterns:
            raise ValueError("give words or patterns: nothing would be forbidden")
        return self


class RuleSet(Section):
    """Rules of form: score = weighted mean of format, length and elements, less the cost of what is forbidden, never below 0."""

    format: FormatRules | None = Field(default=None, description="What the text looks like.")
    length: LengthRules | None = Field(default=None, description="How long it is.")
    elements: ElementRules | None = Field(default=None, description="What it should have.")
    forbidden: list[Forbidden] = Field(default=[], description="What it must not have.")

    @model_validator(mode="after")
    def _not_empty(self) -> RuleSet:
        if not (self.format or self.length or self.elements or self.forbidden):
            raise ValueError("there is no rule: give format, length, elements or forbidden")
        return self


class RulesReward(SegmentedConfig, IsolatedConfig, FormConfig):
    """Rules of form, from a file or written here."""

    type: Literal["rules"] = Field(default="rules", description="A rule set.")
    path: str = Field(default="", description="YAML file of the rules.")
    rules: RuleSet | None = Field(default=None, description="The rules themselves, in place of a file.")

    @model_validator(mode="after")
    def _one_of_both(self) -> RulesReward:
        if bool(self.path) == (self.rules is not None):
            raise ValueError("give either path (a rule file) or rules, not " + ("both" if self.path else "neither"))
        return self

    def files(self) -> Iterator[InputFile]:
        if self.path:
            yield InputFile("path", self.path)

    def processes(self) -> WorkerConfig | None:
        return self.worker if any(f.patterns for f in rules_of(self).forbidden) else None  # nothing else in it can hang


_LIST = re.compile(r"^\s*(?:[-*•]\s+|\d+[.)]\s+|\d+、|[一二三四五六七八九十]+、)\S", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
_MARKUP = re.compile(r"^#{1,6} |```|\[[^\]\n]+\]\([^)\n]+\)|^\|.*\|$", re.MULTILINE)
_ROLE = re.compile(r"<\|?\w+\|?>|(?:^|\n)\s*(?:user|assistant|system|customer|human|ai|客户|用户|助手|客服)\s*[:：]", re.IGNORECASE)
_END = re.compile(r"[.!?。！？…][\"'”’」』）)\]]*$")

CHECKS: Mapping[FormatCheck, Callable[[str], bool]] = {
    "finished": lambda text: bool(_END.search(text)),
    "plain": lambda text: not any(p.search(text) for p in (_LIST, _BOLD, _MARKUP)),
    "no_role_marks": lambda text: not _ROLE.search(text),
    "newline": lambda text: "\n" in text,
    "list": lambda text: bool(_LIST.search(text)),
    "bold": lambda text: bool(_BOLD.search(text)),
    "two_sentences": lambda text: len(sentences(text)) >= 2,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a rule set says of a text: the score in [0, 1], each part's score before weighing, and the names of what was forbidden."""

    score: float
    parts: Mapping[str, float]
    forbidden: tuple[str, ...]


def read_rules(path: str | Path) -> RuleSet:
    """A rule file. Raises ConfigError that names the file and every key that is wrong."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such rule file", "check the path; it starts where the command is run")
    return loader.load(RuleSet, Path(path))


def check(rules: RuleSet, text: str) -> Result:
    """Apply ``rules`` to ``text`` (white space around it aside). Empty text scores 0."""
    text = text.strip()
    parts: dict[str, float] = {}
    weights: dict[str, float] = {}
    if rules.format is not None:
        parts["format"], weights["format"] = _format(rules.format, text), rules.format.weight
    if rules.length is not None:
        parts["length"], weights["length"] = _length(rules.length, text), rules.length.weight
    if rules.elements is not None:
        parts["elements"], weights["elements"] = _elements(rules.elements, text), rules.elements.weight
    found = [f for f in rules.forbidden if _found(f, text)]
    mean = sum(weights[k] * v for k, v in parts.items()) / sum(weights.values()) if parts else 1.0
    score = max(0.0, mean - sum(f.cost for f in found)) if text else 0.0
    return Result(score, parts, tuple(f.name for f in found))


def rules_reward(rules: RuleSet, thoughts: bool = False) -> TextReward:
    """The rule set as a function of prompt and text, for ``TextSource``; the reason names each part's score and what was forbidden. Looks
    at the answer behind a model's thoughts alone, unless ``thoughts``; a thought that is not finished has no answer: 0."""

    def judge(_: Prompt, text: str) -> Score:
        shown = text if thoughts else answer_of(text)
        if shown is None:
            return Score(0.0, NO_ANSWER)
        result = check(rules, shown)
        parts = ", ".join(f"{name} {score:.3g}" for name, score in result.parts.items())
        found = f"forbidden: {', '.join(result.forbidden)}" if result.forbidden else ""
        return Score(result.score, "; ".join(filter(None, (parts, found))))

    return judge


def _format(rules: FormatRules, text: str) -> float:
    return sum(points for name, points in rules.checks.items() if CHECKS[name](text)) / sum(rules.checks.values())


def _length(rules: LengthRules, text: str) -> float:
    n = word_count(text) if rules.unit == "words" else char_count(text)
    bands = rules.bands_by_language.get(language(text), rules.bands)
    return next((b.score for b in bands if b.low <= n and (b.high is None or n <= b.high)), rules.otherwise)


def _elements(rules: ElementRules, text: str) -> float:
    found = sum(g.points for g in rules.groups if count_keywords(text, g.any))
    return min(1.0, found / (rules.enough or sum(g.points for g in rules.groups)))


def _found(forbidden: Forbidden, text: str) -> bool:
    return bool(count_keywords(text, forbidden.words)) or any(re.search(p, text, re.IGNORECASE) for p in forbidden.patterns)


def of_settings(config: RulesReward) -> TextReward:
    """The rules that the settings hold or name. Raises ConfigError for a file that cannot be read."""
    return rules_reward(rules_of(config), config.thoughts)


def rules_of(config: RulesReward) -> RuleSet:
    """The rules themselves. Raises ConfigError for a file that cannot be read."""
    return config.rules if config.rules is not None else read_rules(config.path)


ROW = TextRow(RulesReward, of_settings, Argument("path", "FILE"))
