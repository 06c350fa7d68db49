"""Can a program check the answers? What a row says is right, and which verifier reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.types import Prompt

_NUMBER = re.compile(r"^[\s$€£]*[-+]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?\s*%?\s*$")
_CHOICE = re.compile(r"^\(?[A-Ja-j]\)?\.?$")
_MATHS = re.compile(r"\\[a-zA-Z]+|[=^{}]|\d\s*[/*+]\s*\d")
MOST_WORDS = 6  # a right answer of more words is a text, which no comparison settles


@dataclass(frozen=True, slots=True)
class Checkable:
    """``share`` of the prompts that ``verifier`` can check; ``settings`` are what it needs beside its type."""

    verifier: str
    share: float
    settings: Mapping[str, Any]


def checkable(prompts: Sequence[Prompt]) -> Checkable | None:
    """The verifier that reads most prompts, where it reads at least half; None when there is none."""
    if not prompts:
        return None
    counts: dict[str, int] = {}
    for prompt in prompts:
        kind = kind_of(prompt.meta)
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        return None
    if {"numeric", "math"} <= counts.keys():  # expressions among numbers: the verifier of expressions reads both
        counts["math"] += counts.pop("numeric")
    best = max(counts, key=lambda kind: counts[kind])
    share = counts[best] / len(prompts)
    return Checkable(best, share, {}) if share >= 0.5 else None


def kind_of(meta: Mapping[str, Any]) -> str:
    """Which verifier (its ``type`` in a recipe) checks answers to a prompt with these extra columns; "" when none does."""
    if meta.get("instruction_id_list"):
        return "ifeval"
    if meta.get("tests"):
        return "code"
    if isinstance(meta.get("schema"), dict):
        return "json_schema"
    truth = meta.get("ground_truth")
    if isinstance(truth, bool) or truth is None or isinstance(truth, dict):
        return ""
    if isinstance(truth, list):  # accepted answers: one verifier must read them all
        kinds = {"" if isinstance(t, list) else kind_of({"ground_truth": t}) for t in truth}
        return kinds.pop() if len(kinds) == 1 else "math" if kinds and kinds <= {"numeric", "math"} else ""
    text = str(truth).strip()
    if "####" in text:
        return "gsm8k"
    if _NUMBER.match(text):
        return "numeric"
    if _CHOICE.match(text):
        return "choice"
    if not text or len(text.split()) > MOST_WORDS:
        return "math" if text and _MATHS.search(text) and len(text.split()) <= 4 * MOST_WORDS else ""
    return "math" if _MATHS.search(text) else "exact"
