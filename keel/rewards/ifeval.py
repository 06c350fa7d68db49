"""Instructions that a program can check, as a reward; the kinds are in ``ifeval_checks``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from keel.rewards.ifeval_checks import CHECKS
from keel.rewards.score import Score, TextReward, failure, of_answers
from keel.rewards.verifier import column_of
from keel.rewards.verifier_config import IFEvalReward
from keel.types import Prompt


@of_answers
def ifeval(config: IFEvalReward) -> TextReward:
    """Are the row's instructions followed? All of them or the share, as asked; an empty answer follows none. A failure when the row has no
    list of instructions, or one that is unknown or lacks an argument."""

    def judge(prompt: Prompt, text: str) -> Score:
        names, arguments = column_of(prompt.meta, config.instructions), column_of(prompt.meta, config.arguments)
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list | tuple) or not names:
            return failure(f"no instructions: the row needs a column {config.instructions!r} with a list of names")
        given = _arguments(arguments, len(names))
        if given is None:
            return failure(f"column {config.arguments!r} must hold one mapping for each of the {len(names)} instructions")
        try:
            broken = [name for name, kwargs in zip(names, given, strict=True) if not follows(name, kwargs, text, config.loose)]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return failure(f"instruction: {error.args[0] if error.args else error}")
        value = float(not broken) if config.score == "all" else 1.0 - len(broken) / len(names)
        return Score(value, f"not followed: {', '.join(broken)}" if broken else "all followed")

    return judge


def follows(name: str, arguments: Mapping[str, Any], text: str, loose: bool = False) -> bool:
    """Does the text follow one instruction? ``loose``: also without its first line, its last line, and asterisks, in any combination
    (Zhou et al. 2023, section 2.2).

    Raises ValueError for an unknown instruction, KeyError for a missing argument."""
    check = CHECKS.get(name)
    if check is None:
        near = difflib.get_close_matches(str(name), CHECKS, 1)
        raise ValueError(f"unknown kind {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    try:
        return any(variant.strip() and check(variant, arguments) for variant in (_variants(text) if loose else [text]))
    except KeyError as error:
        raise KeyError(f"{name} needs the argument {error.args[0]!r}") from None


def _variants(text: str) -> list[str]:
    lines = text.split("\n")
    cut = [text] + ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [*cut, *(c.replace("*", "") for c in cut)]


def _arguments(found: Any, n: int) -> Sequence[Mapping[str, Any]] | None:
    """One mapping an instruction, absent arguments out (data sets write them as null); none at all where no instruction needs any."""
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    if found is None:
        return [{}] * n
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, Sequence) or len(found) != n or not all(isinstance(f, Mapping) or f is None for f in found):
        return None
    return [{k: v for k, v in (f or {}).items() if v is not None} for f in found]
