"""Rule sets: format, length, required elements, forbidden things; each rule readable in a YAML file, English and Chinese alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from keel.core import config as loader
from keel.core.errors import ConfigError
from keel.data.text import char_count, count_keywords, language, sentences, word_count
from keel.rewards.config import ElementRules, Forbidden, FormatCheck, FormatRules, LengthRules, RuleSet
from keel.rewards.reading.thoughts import answer_of
from keel.rewards.score import NO_ANSWER, Score, TextReward
from keel.types import Prompt

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
