"""The right answers of a row, among its extra columns, and what is said where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keel.rewards.score import Score, TextReward, failure
from keel.types import Prompt


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
        f"{what} {key!r}" + (f": {short(repr(found))}" if found is not None else ": the row has no right answer to compare with")
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


def short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
