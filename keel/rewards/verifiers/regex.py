"""Is a pattern found in an answer, and what it finds the right answer?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.rewards.reading.thoughts import names_a_marker
from keel.rewards.score import Score, TextReward, TextRow, failure, of_answers
from keel.rewards.settings import RIGHT_ANSWER, FormConfig, IsolatedConfig, compiles
from keel.rewards.verifiers.truth import no_truth, short, truth_of, truths_of
from keel.types import Prompt


class RegexReward(IsolatedConfig, FormConfig):
    """1 when the pattern is found; with ``truth``, when its first group (or the whole match) is the right answer."""

    type: Literal["regex"] = Field(default="regex", description="A pattern is looked for.")
    pattern: str = Field(
        default="", description="Regular expression; its last match counts. Empty = each row's own, in its column `pattern`."
    )
    truth: str = Field(default="", description="Key of the prompt's extra columns that holds the right answer; empty = any match will do.")

    @field_validator("pattern")
    @classmethod
    def _regular(cls, value: str) -> str:
        return compiles(value)

    @model_validator(mode="after")
    def _sees_thoughts(self) -> RegexReward:
        if self.pattern and not self.thoughts and names_a_marker(self.pattern):
            raise ValueError("the pattern looks for thoughts, which are taken off before it is tried: set thoughts=true")
        return self

    def columns(self) -> Iterator[tuple[str, str]]:
        if self.truth:
            yield self.truth, RIGHT_ANSWER
        if not self.pattern:
            yield "pattern", "and no pattern=... is given"


@of_answers
def regex(config: RegexReward) -> TextReward:
    """1 when the pattern matches and, with ``truth``, the last match's first group (the whole match without groups) is it; else 0."""

    def judge(prompt: Prompt, text: str) -> Score:
        source = config.pattern or truth_of(prompt.meta, "pattern")
        if not source:
            return failure("no pattern: set pattern, or give each row a column 'pattern'")
        if not config.thoughts and names_a_marker(source):
            return failure(f"the pattern looks for thoughts, which are taken off: set thoughts=true: {short(source)}")
        try:
            pattern = re.compile(source)
        except re.error as error:
            return failure(f"not a regular expression: {error.msg} at position {error.pos}: {short(source)}")
        if not config.truth:
            match = pattern.search(text)
            return Score(1.0, f"found {short(match.group())}") if match else Score(0.0, "not found")
        truths = truths_of(prompt.meta, config.truth)
        if not truths:
            return no_truth(prompt, config.truth)
        matches = list(pattern.finditer(text))
        if not matches:
            return Score(0.0, "not found")
        found = (matches[-1].group(1 if pattern.groups else 0) or "").strip()
        return Score(float(found in [t.strip() for t in truths]), f"found {short(found)}")

    return judge


ROW = TextRow(RegexReward, regex)
