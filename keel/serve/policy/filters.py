"""Rules for prompts and answers: words, patterns, a reward model's score. A file of them stops what nobody should ask or read.

A streamed answer leaves as far as no rule can still hit it: ``StreamFilter`` keeps back as many characters as the longest match of a rule
has, and the whole answer where a rule cannot say how long that is, or needs all of it (a score).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from keel.core.config import Section, checked
from keel.core.errors import ConfigError
from keel.core.recipe_files import read_recipe

Where = Literal["input", "output", "both"]
Score = Callable[["ScoreConfig", str, str], Awaitable[float]]  # (which model, the question, the answer) -> its score


class ScoreConfig(Section):
    """A reward model behind `keel serve reward`."""

    url: str = Field(description="Its address with the path, e.g. http://127.0.0.1:5000/score.")
    below: float = Field(description="Answers with a lower score are stopped.")
    timeout_s: float = Field(default=10.0, gt=0, description="No score after so many seconds stops the answer too.")


class RuleConfig(Section):
    """One rule. It has one of `keywords`, `regex`, `score`."""

    name: str = Field(min_length=1, description="How it is counted, and named in answers.")
    where: Where = Field(default="both", description="What it looks at: input, output, both.")
    keywords: tuple[str, ...] = Field(
        default=(), description="Texts; width, case and invisible characters do not matter, and they hit inside of longer words."
    )
    regex: str = Field(default="", description="A Python pattern, searched in the text as it is.")
    longest: int = Field(
        default=0, ge=0, description="regex: characters of its longest match, so that streams need not wait for the end; 0 = not known."
    )
    score: ScoreConfig | None = Field(default=None, description="A reward model's score of the answer; only of output.")
    message: str = Field(default="", description="What the reader gets in place of the rest; empty = nothing.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum((bool(self.keywords), bool(self.regex), self.score is not None)) != 1:
            raise ValueError(f"rule {self.name} needs one of keywords, regex, score")
        if any(not _fold(word).strip() for word in self.keywords):
            raise ValueError(f"rule {self.name} has an empty keyword")
        if self.longest and not self.regex:
            raise ValueError(f"rule {self.name}: longest would have no effect without regex")
        if self.score is not None and self.where != "output":
            raise ValueError(f"rule {self.name}: a score is of an answer; set where: output")
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"rule {self.name}: regex: {error}") from None
        return self


class FilterFile(Section):
    """A file of rules; the first one that hits is the one that is named."""

    rules: tuple[RuleConfig, ...] = Field(min_length=1, description="The rules.")

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError("rules must have different names")
        return self


def read_filters(path: Path) -> tuple[RuleConfig, ...]:
    """The rules of a file. Raises ConfigError naming file and rule."""
    try:
        return checked(FilterFile, read_recipe(path)).rules
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from None


class StreamFilter:
    """The rules on one text that grows."""

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        """``rules``: those that look at this text."""
        self._words = [(rule, _fold(word)) for rule in rules for word in rule.keywords]
        self._patterns = [(rule, re.compile(rule.regex)) for rule in rules if rule.regex]
        self._scores = [rule for rule in rules if rule.score is not None]
        self._longest = max((len(word) for _, word in self._words), default=0)
        endless = bool(self._scores) or any(not rule.longest for rule, _ in self._patterns)
        self._keep = None if endless else max([self._longest, *(rule.longest for rule, _ in self._patterns)])
        self._text, self._told = "", 0  # all of it, as a pattern may look back; how much of it has left
        self._folded, self._places, self._searched = "", list[int](), 0  # as words are compared; where each character came from
        self.hit: RuleConfig | None = None

    def add(self, text: str) -> str:
        """The part of the text that may leave now."""
        self._grow(text)
        return self._leave(final=False)

    async def finish(self, prompt: str = "", score: Score | None = None) -> str:
        """The rest, at the end. ``prompt``: what scores hang on beside the answer; ``score`` may be None where no rule needs one."""
        for rule in self._scores if self.hit is None else ():
            assert rule.score is not None
            assert score is not None, "a rule with a score needs whom to ask"
            value = await score(rule.score, prompt, self._text)
            if not value >= rule.score.below:  # NaN too: no score is no permission
                self.hit = rule
                return ""
        return self._leave(final=True)

    def look_at(self, text: str) -> None:
        """A text that is all there is; scores are not asked for."""
        self._grow(text)
        self._leave(final=True)

    def _grow(self, text: str) -> None:
        at, self._text = len(self._text), self._text + text
        if self._words:
            parts = [_folded(c) for c in text]
            self._folded += "".join(parts)
            self._places += [at + i for i, part in enumerate(parts) for _ in part]

    def _leave(self, final: bool) -> str:
        if self.hit is not None:
            return ""
        first = self._first_hit(final)
        if first is not None:
            end, self.hit = max(self._told, first[0]), first[1]
        elif final:
            end = len(self._text)
        else:
            end = self._told if self._keep is None else max(self._told, self._certain(self._keep))
        told, self._told = self._text[self._told : end], end
        return told

    def _first_hit(self, final: bool) -> tuple[int, RuleConfig] | None:
        """(place, rule) of the match that begins first. Not ``final``: a pattern that ends where the text does may yet come to nothing."""
        hits: list[tuple[int, RuleConfig]] = []
        for rule, word in self._words:
            if (at := self._folded.find(word, self._searched)) >= 0:
                hits.append((self._places[at], rule))
        self._searched = max(0, len(self._folded) - self._longest)
        for rule, pattern in self._patterns:
            match = next((m for m in pattern.finditer(self._text, self._told) if m.group()), None)
            if match is not None and (final or match.end() < len(self._text)):
                hits.append((match.start(), rule))
        return min(hits, key=lambda hit: hit[0], default=None)

    def _certain(self, keep: int) -> int:
        """The place behind which ``keep`` characters are kept back; those that are not seen do not count."""
        if not keep:
            return len(self._text)
        if not self._words:
            return max(0, len(self._text) - keep)
        return self._places[-keep] if len(self._places) >= keep else 0


def hit_in(rules: Sequence[RuleConfig], text: str) -> RuleConfig | None:
    """The rule that a whole text hits. ``rules`` without scores."""
    look = StreamFilter(rules)
    look.look_at(text)
    return look.hit


def rules_of(rules: Sequence[RuleConfig], where: Literal["input", "output"]) -> tuple[RuleConfig, ...]:
    """Those that look there."""
    return tuple(rule for rule in rules if rule.where in (where, "both"))


def _fold(text: str) -> str:
    """A text as words are compared."""
    return "".join(map(_folded, text))


@lru_cache(maxsize=1 << 14)
def _folded(c: str) -> str:
    """A character in its usual width and small; nothing for one that is not seen."""
    if unicodedata.category(c) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", c).casefold()
