"""Multiple choice: which option does an answer settle on?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from keel.rewards.score import Score, TextReward, failure
from keel.rewards.verifier import column_of, no_truth, truth_of
from keel.rewards.verifier_config import ChoiceReward
from keel.types import Prompt

_LETTER = r"[\(\[<{（【]?\s*\**([A-Z])\**(?![A-Za-z'’])"
# What announces a final choice. Where several stand in a text the last one counts: models think before they answer.
_ANNOUNCED = re.compile(
    r"(?:\\boxed\{\s*(?:\\text(?:bf)?\{)?"
    r"|####\s*"
    r"|(?:answer|choice|option|choose|pick|select)s?\**\s*(?:(?:is|are|would be|should be)\s*[:：]?|[:：=])"
    r"\s*\**\s*(?:option|choice|answer)?\s*"
    r"|\b(?:choose|pick|select)\s+(?:option|choice|answer)?\s*"
    r"|(?:答案|选项|正确答案)(?:应该|应|就)?(?:是|为|选|[:：])\s*(?:选项)?\s*"
    r"|(?:应该?|故|所以|因此|我)?选(?:择|项)?\s*[:：]?\s*"
    r"|<answer>\s*)" + _LETTER,
    re.IGNORECASE,
)
_ALONE = re.compile(r"^\W*([A-Z])\W*$")
_LEADING = re.compile(r"^\s*[\(\[（【]?\**([A-Z])\**\s*(?:[\)\].:：、）】]|\n|$)")


def choice(config: ChoiceReward) -> TextReward:
    """1 when the chosen option is the right one; else 0. The truth is a letter, the option's text, or its index (from 0) where the row has
    options; a failure where it is none of these."""

    def judge(prompt: Prompt, text: str) -> Score:
        options = _options(column_of(prompt.meta, config.options))
        truth = truth_of(prompt.meta, config.truth)
        if truth is None:
            return no_truth(prompt, config.truth)
        wanted = _wanted(truth, column_of(prompt.meta, config.truth), options)
        if wanted is None:
            return failure(f"no option: the right answer {truth!r} is neither a letter nor one of the row's {config.options!r}")
        found = chosen(text, options)
        if found is None:
            return Score(0.0, "no option was chosen")
        return Score(float(found == wanted), f"chose {found}, " + ("which is right" if found == wanted else f"not {wanted}"))

    return judge


def chosen(text: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter that a text settles on: the last announced one, a letter alone (the whole text, the last line, the start), else the one
    option whose words stand in the text."""
    text = unicodedata.normalize("NFKC", text).strip()
    announced = [m.group(1) for m in _ANNOUNCED.finditer(text) if m.group(1).isupper() and (not options or m.group(1) in options)]
    if announced:
        return announced[-1]
    lines = [line for line in text.splitlines() if line.strip()]
    for candidate in (_ALONE.match(text), _ALONE.match(lines[-1]) if lines else None, _LEADING.match(text)):
        if candidate and (not options or candidate.group(1) in options):
            return candidate.group(1)
    named = [letter for letter, words in (options or {}).items() if words and _normal(words) in _normal(text)]
    longest = [x for x in named if not any(x != y and _normal((options or {})[x]) in _normal((options or {})[y]) for y in named)]
    return longest[0] if len(longest) == 1 else None


def _options(found: Any) -> dict[str, str] | None:
    """Letter -> text. Data sets write a list, a mapping, or a mapping of two lists (ARC: {text: [...], label: [...]})."""
    if isinstance(found, Mapping) and isinstance(found.get("text"), list) and isinstance(found.get("label"), list):
        return {str(k).strip().upper(): str(v) for k, v in zip(found["label"], found["text"], strict=False)}
    if isinstance(found, Mapping):
        return {str(k).strip().upper(): str(v) for k, v in found.items()}
    if isinstance(found, list | tuple):
        return {chr(ord("A") + i): _without_letter(str(v), chr(ord("A") + i)) for i, v in enumerate(found)}
    return None


def _without_letter(option: str, letter: str) -> str:
    return re.sub(rf"^\s*\(?{letter}[\).:：、]\s*", "", option)


def _wanted(truth: str, raw: Any, options: Mapping[str, str] | None) -> str | None:
    if isinstance(raw, int) and options:
        letters = list(options)
        return letters[raw] if 0 <= raw < len(letters) else None
    plain = truth.strip()
    match = re.match(r"^\W*([A-Za-z])\W*$", plain)
    if match and (not options or match.group(1).upper() in options):
        return match.group(1).upper()
    by_text = [letter for letter, words in (options or {}).items() if _normal(words) == _normal(plain)]
    if len(by_text) == 1:
        return by_text[0]
    return chosen(plain, options)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。")
