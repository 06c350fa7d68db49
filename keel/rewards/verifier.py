"""Verifiers: is the answer right? Functions of prompt and text that give 1, 0 or, where the prompt has no right answer, NaN (failed)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from keel.data.text import count_keywords
from keel.rewards.config import ContainsReward, ExactReward, NumericReward, RegexReward
from keel.rewards.text import OnceLog, TextReward
from keel.types import Prompt

_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?%?|(?<![A-Za-z0-9_.])[-+−]?\.\d+")
_MARKED = re.compile(r"\\boxed\{([^{}]*)\}|####\s*([^\n]+)|(?:answer is|answer:|答案是|答案为|答案[:：])\s*([^\n]+)", re.IGNORECASE)


def exact(config: ExactReward) -> TextReward:
    """1 when text and truth are the same after NFKC, white space made single, and case dropped where asked; else 0."""

    def normal(text: str) -> str:
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        return text.casefold() if config.ignore_case else text

    return _with_truth(config.name, config.truth, lambda text, truth: float(normal(text) == normal(truth)))


def numeric(config: NumericReward) -> TextReward:
    """1 when the final number of the text equals that of the truth within the tolerance; a text without a number is wrong: 0, a truth
    without one is a failure: NaN."""

    def judge(text: str, truth: str) -> float:
        wanted, found = final_number(truth), final_number(text)
        if wanted is None:
            return math.nan
        return float(found is not None and abs(found - wanted) <= config.tolerance * max(1.0, abs(wanted)))

    return _with_truth(config.name, config.truth, judge)


def contains(config: ContainsReward) -> TextReward:
    """The share of the words that stand in the text; with ``need="any"`` 1 as soon as one does."""

    def judge(_: Prompt, text: str) -> float:
        found = len(count_keywords(text, config.words))
        return float(found > 0) if config.need == "any" else found / len(set(config.words))

    return judge


def regex(config: RegexReward) -> TextReward:
    """1 when the pattern matches and, with ``truth``, the last match's first group (the whole match without groups) is it; else 0."""
    pattern = re.compile(config.pattern)

    def judge(text: str, truth: str) -> float:
        matches = list(pattern.finditer(text))
        return float(bool(matches) and (matches[-1].group(1 if pattern.groups else 0) or "").strip() == truth.strip())

    return _with_truth(config.name, config.truth, judge) if config.truth else lambda _, text: float(bool(pattern.search(text)))


def final_number(text: str) -> float | None:
    r"""The number that a solution ends in: of the last ``\boxed{}``, ``####`` or "answer is" if there is one, otherwise the last number."""
    text = unicodedata.normalize("NFKC", text).replace("−", "-")
    marked = [next(g for g in m.groups() if g is not None) for m in _MARKED.finditer(text)]
    for part, which in ((marked[-1] if marked else "", 0), (text, -1)):
        numbers = _NUMBER.findall(part)
        if numbers:
            return float(numbers[which].rstrip("%").replace(",", ""))
    return None


def _with_truth(name: str, key: str, judge: Callable[[str, str], float]) -> TextReward:
    """``judge(text, truth)`` with the prompt's right answer as text. NaN, and a log line, where there is none to judge by."""
    warn = OnceLog()

    def reward(prompt: Prompt, text: str) -> float:
        truth = truth_of(prompt.meta, key)
        value = math.nan if truth is None else judge(text, truth)
        if math.isnan(value):
            warn("truth", "reward %s: prompt %s (%s) has no usable %r: %r", name, prompt.prompt_id, prompt.source_id, key, truth)
        return value

    return reward


def truth_of(meta: Mapping[str, Any], key: str) -> str | None:
    """The right answer among a prompt's extra columns; ``a.b`` looks inside. Numbers become text, anything else is none."""
    found: Any = meta
    for step in key.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return str(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else None
