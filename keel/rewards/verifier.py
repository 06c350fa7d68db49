"""Verifiers that need no more than the text: is the answer right? Each gives 1, 0 or, where the row has no right answer, a failure."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from keel.data.text import count_keywords
from keel.rewards.config import ContainsReward
from keel.rewards.reading import final
from keel.rewards.reading.equality import Comparison, Shape
from keel.rewards.reading.final import right_number
from keel.rewards.reading.quantity import read_quantity
from keel.rewards.reading.thoughts import names_a_marker
from keel.rewards.score import Score, TextReward, failure, of_answers
from keel.rewards.verifier_config import ExactReward, NumericReward, RegexReward
from keel.types import Prompt


@of_answers
def exact(config: ExactReward) -> TextReward:
    """1 when text and truth are the same after NFKC, white space made single, and case dropped where asked; else 0."""

    def normal(text: str) -> str:
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        return text.casefold() if config.ignore_case else text

    def judge(text: str, truth: str) -> Score:
        return Score(1.0, "the same") if normal(text) == normal(truth) else Score(0.0, f"not {_short(truth)}")

    return with_truth(config.truth, judge)


@of_answers
def numeric(config: NumericReward) -> TextReward:
    """1 when the final number of the text equals that of the truth within the tolerance; a text without a number is wrong: 0, a truth
    without one is a failure."""

    def judge(text: str, truth: str) -> Score:
        wanted = right_number(truth)
        if wanted is None:
            return failure(f"no number in the right answer: {_short(truth)}")
        comparison = Comparison(_never, _near(config.tolerance, wanted))
        return final.judge(text, wanted, lambda found: comparison.same(found, wanted), numbers=True)

    return with_truth(config.truth, judge)


def _never(found: str, wanted: str) -> bool:
    """What is no number equals none."""
    return False


def _near(tolerance: float | None, wanted: Shape) -> Fraction | None:
    """The difference that the user allows, relative to the right number where that is above 1; None where nothing was asked for."""
    if tolerance is None:
        return None
    number = read_quantity(wanted.text)
    return Fraction(tolerance) * max(Fraction(1), abs(number.value) if number is not None else Fraction(1))


@of_answers
def contains(config: ContainsReward) -> TextReward:
    """The share of the words that stand in the text; with ``need="any"`` 1 as soon as one does."""

    def judge(_: Prompt, text: str) -> Score:
        found = count_keywords(text, config.words)
        value = float(len(found) > 0) if config.need == "any" else len(found) / len(set(config.words))
        return Score(value, f"found: {', '.join(found)}" if found else "none of the words")

    return judge


@of_answers
def regex(config: RegexReward) -> TextReward:
    """1 when the pattern matches and, with ``truth``, the last match's first group (the whole match without groups) is it; else 0."""

    def judge(prompt: Prompt, text: str) -> Score:
        source = config.pattern or truth_of(prompt.meta, "pattern")
        if not source:
            return failure("no pattern: set pattern, or give each row a column 'pattern'")
        if not config.thoughts and names_a_marker(source):
            return failure(f"the pattern looks for thoughts, which are taken off: set thoughts=true: {_short(source)}")
        try:
            pattern = re.compile(source)
        except re.error as error:
            return failure(f"not a regular expression: {error.msg} at position {error.pos}: {_short(source)}")
        if not config.truth:
            match = pattern.search(text)
            return Score(1.0, f"found {_short(match.group())}") if match else Score(0.0, "not found")
        truths = truths_of(prompt.meta, config.truth)
        if not truths:
            return no_truth(prompt, config.truth)
        matches = list(pattern.finditer(text))
        if not matches:
            return Score(0.0, "not found")
        found = (matches[-1].group(1 if pattern.groups else 0) or "").strip()
        return Score(float(found in [t.strip() for t in truths]), f"found {_short(found)}")

    return judge


def with_truth(key: str, judge: Callable[[str, str], Score]) -> TextReward:
    """``judge(text, truth)`` with the prompt's right answer as text; a failure where there is none to judge by. Of a list of accepted
    answers any one will do."""

    def reward(prompt: Prompt, text: str) -> Score:
        truths = truths_of(prompt.meta, key)
        return best([judge(text, truth) for truth in truths]) if truths else no_truth(prompt, key)

    return reward


def best(scores: Sequence[Score]) -> Score:
    """By the kindest of several right answers; where none agrees, a failure is one (what could not be compared may have agreed)."""
    greatest = max(scores, key=lambda s: -1.0 if s.error else float(s))
    failed = next((s for s in scores if s.error), None)
    return greatest if failed is None or (not greatest.error and greatest > 0) else failed


def no_truth(prompt: Prompt, key: str) -> Score:
    """The failure of a row that cannot be judged."""
    found = column_of(prompt.meta, key)
    what = "no usable" if found is not None else "no"
    return failure(
        f"{what} {key!r}" + (f": {_short(repr(found))}" if found is not None else ": the row has no right answer to compare with")
    )


def truths_of(meta: Mapping[str, Any], key: str) -> list[str]:
    """The accepted answers among a prompt's extra columns: one, or the entries of a list; ``a.b`` looks inside. Numbers become text.
    [] where there is none, or anything that is neither text nor a number."""
    found = column_of(meta, key)
    entries = list(found) if isinstance(found, list | tuple) else [found]
    texts = [text for entry in entries if (text := text_of(entry)) is not None]
    return texts if len(texts) == len(entries) else []


def text_of(value: Any) -> str | None:
    """Text and numbers as text; None for anything else: true and false, infinities, objects."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and (not math.isfinite(value)):
        return None
    return str(value)


def truth_of(meta: Mapping[str, Any], key: str) -> str | None:
    """The one accepted answer, as ``truths_of``; None where there is none or are several."""
    truths = truths_of(meta, key)
    return truths[0] if len(truths) == 1 else None


def column_of(meta: Mapping[str, Any], key: str) -> Any:
    """One of a prompt's extra columns, None where there is none; ``a.b`` looks inside."""
    found: Any = meta
    for step in key.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
