"""Verifiers that need no more than the text: is the answer right? Each gives 1, 0 or, where the row has no right answer, a failure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from keel.data.text import count_keywords
from keel.rewards.config import ContainsReward
from keel.rewards.score import Score, TextReward, failure
from keel.rewards.verifier_config import ExactReward, NumericReward, RegexReward
from keel.types import Prompt

_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?%?|(?<![A-Za-z0-9_.])[-+−]?\.\d+")
_INSIDE = r"(?:[^{}]|\{[^{}]*\})*"  # a box with \frac{1}{2}, \text{ m} or 1{,}000 in it
_MARKED = re.compile(rf"\\boxed\{{({_INSIDE})\}}|####\s*([^\n]+)|(?:answer is|answer:|答案是|答案为|答案[:：])\s*([^\n]+)", re.IGNORECASE)
_FRACTION = re.compile(
    r"(?<![\w./,])(?:(?P<whole>\d+)(?:\s+| and ))?(?P<top>\d+)/(?P<bottom>[1-9]\d*)(?![\d/]|[.,]\d)"
)  # 12/25/2023 is a date
_PLAINER = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"(?<=\d)(?=[¼-¾⅐-⅞])", " "),
        (r"(?<=\d)(?:\{,\}|\\,)(?=\d{3})", ","),
        (r"(?<=\d)\s*(?=\\[dt]?frac)", " "),
        (r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2"),
    )
)


def exact(config: ExactReward) -> TextReward:
    """1 when text and truth are the same after NFKC, white space made single, and case dropped where asked; else 0."""

    def normal(text: str) -> str:
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        return text.casefold() if config.ignore_case else text

    def judge(text: str, truth: str) -> Score:
        return Score(1.0, "the same") if normal(text) == normal(truth) else Score(0.0, f"not {_short(truth)}")

    return with_truth(config.truth, judge)


def numeric(config: NumericReward) -> TextReward:
    """1 when the final number of the text equals that of the truth within the tolerance; a text without a number is wrong: 0, a truth
    without one is a failure."""

    def judge(text: str, truth: str) -> Score:
        wanted, found = final_number(truth), final_number(text)
        if wanted is None:
            return failure(f"no number in the right answer: {_short(truth)}")
        if found is None:
            return Score(0.0, "no number in the answer")
        right = abs(found - wanted) <= config.tolerance * max(1.0, abs(wanted))
        return Score(float(right), f"{found:.12g} " + ("is right" if right else f"is not {wanted:.12g}"))

    return with_truth(config.truth, judge)


def contains(config: ContainsReward) -> TextReward:
    """The share of the words that stand in the text; with ``need="any"`` 1 as soon as one does."""

    def judge(_: Prompt, text: str) -> Score:
        found = count_keywords(text, config.words)
        value = float(len(found) > 0) if config.need == "any" else len(found) / len(set(config.words))
        return Score(value, f"found: {', '.join(found)}" if found else "none of the words")

    return judge


def regex(config: RegexReward) -> TextReward:
    """1 when the pattern matches and, with ``truth``, the last match's first group (the whole match without groups) is it; else 0."""

    def judge(prompt: Prompt, text: str) -> Score:
        source = config.pattern or truth_of(prompt.meta, "pattern")
        if not source:
            return failure("no pattern: set pattern, or give each row a column 'pattern'")
        try:
            pattern = re.compile(source)
        except re.error as error:
            return failure(f"not a regular expression: {error.msg} at position {error.pos}: {_short(source)}")
        if not config.truth:
            match = pattern.search(text)
            return Score(1.0, f"found {_short(match.group())}") if match else Score(0.0, "not found")
        truth = truth_of(prompt.meta, config.truth)
        if truth is None:
            return no_truth(prompt, config.truth)
        matches = list(pattern.finditer(text))
        if not matches:
            return Score(0.0, "not found")
        found = (matches[-1].group(1 if pattern.groups else 0) or "").strip()
        return Score(float(found == truth.strip()), f"found {_short(found)}")

    return judge


def final_number(text: str) -> float | None:
    r"""The number that a solution ends in: of the last ``\boxed{}``, ``####`` or "answer is" if there is one, otherwise the last number.
    Fractions and mixed numbers (``1/2``, ``3 1/2``, ``\frac{1}{2}``) are one number; of a percentage it is the one before the sign."""
    for pattern, plain in _PLAINER:
        text = pattern.sub(plain, text)
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("\u2044", "/")
    text = _FRACTION.sub(_decimal, text)
    marked = [next(g for g in m.groups() if g is not None) for m in _MARKED.finditer(text)]
    for part, which in ((marked[-1] if marked else "", 0), (text, -1)):
        numbers = _NUMBER.findall(part)
        if numbers:
            return float(numbers[which].rstrip("%").replace(",", ""))
    return None


def _decimal(fraction: re.Match[str]) -> str:
    return repr(int(fraction["whole"] or 0) + int(fraction["top"]) / int(fraction["bottom"]))


def with_truth(key: str, judge: Callable[[str, str], Score]) -> TextReward:
    """``judge(text, truth)`` with the prompt's right answer as text; a failure where there is none to judge by."""

    def reward(prompt: Prompt, text: str) -> Score:
        truth = truth_of(prompt.meta, key)
        return no_truth(prompt, key) if truth is None else judge(text, truth)

    return reward


def no_truth(prompt: Prompt, key: str) -> Score:
    """The failure of a row that cannot be judged."""
    found = column_of(prompt.meta, key)
    what = "no usable" if found is not None else "no"
    return failure(
        f"{what} {key!r}" + (f": {_short(repr(found))}" if found is not None else ": the row has no right answer to compare with")
    )


def truth_of(meta: Mapping[str, Any], key: str) -> str | None:
    """The right answer among a prompt's extra columns; ``a.b`` looks inside. Numbers become text, anything else is none."""
    found = column_of(meta, key)
    return str(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else None


def column_of(meta: Mapping[str, Any], key: str) -> Any:
    """One of a prompt's extra columns, None where there is none; ``a.b`` looks inside."""
    found: Any = meta
    for step in key.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
