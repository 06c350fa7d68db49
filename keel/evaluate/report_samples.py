"""The side-by-side answers of the report: the same prompts at every evaluation, so that change can be seen; the best, the worst and some at
random."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keel.core.hashing import stable_hash
from keel.evaluate.compare import GOLD, REWARD_MODEL, Answer, PromptAnswers
from keel.evaluate.report_made_up import pictures, pieces
from keel.evaluate.report_plots import number

MOST_TEXT = 600_000  # characters of answers on one page
MOST_ANSWER = 4_000
_LANGUAGES = {"en": "English", "zh": "Chinese", "": "Answers"}
_NAMES = {GOLD: "gold", REWARD_MODEL: "reward"}
_PICKED = 3

Why = Literal["fixed", "worst", "best", "random"]


def answers_view(rows: Sequence[PromptAnswers]) -> dict[str, Any] | None:
    """Rows by language, scored languages apart; the picked ones (fixed, worst, best, random by gain) first. None without rows."""
    if not rows:
        return None
    gains = {row.prompt_id: _gain(row) for row in rows}  # (scorer, difference)
    languages = sorted({row.language for row in rows}, key=lambda name: (name != "en", name))
    shown, groups, spent = 0, [], 0
    for language in languages:
        group = [row for row in rows if row.language == language]
        scores = {row.prompt_id: gains[row.prompt_id][1] for row in group}
        why = {c.prompt_id: c.why for c in choose(scores, fixed=_PICKED, extremes=_PICKED, random=_PICKED)}
        order = list(why)
        group.sort(key=lambda row: order.index(row.prompt_id) if row.prompt_id in why else len(order))
        cards = []
        for row in group:
            size = len(row.prompt) + sum(min(len(a.shown), MOST_ANSWER) for a in (*row.before, *row.after))
            if spent + size > MOST_TEXT:
                break
            spent += size
            cards.append(_card(row, why.get(row.prompt_id, ""), gains[row.prompt_id]))
        shown += len(cards)
        groups.append({"language": language, "title": _LANGUAGES.get(language, language), "cards": cards, "total": len(group)})
    return {"groups": groups, "shown": shown, "total": len(rows)}


def _gain(row: PromptAnswers) -> tuple[str, float | None]:
    """Mean score after minus before, by gold where there is one, by the reward model otherwise."""
    for scorer in (GOLD, REWARD_MODEL):
        sides = [[v for a in side if (v := a.score(scorer)) is not None] for side in (row.before, row.after)]
        if all(sides):
            return _NAMES[scorer], math.fsum(sides[1]) / len(sides[1]) - math.fsum(sides[0]) / len(sides[0])
    return "", None


def _card(row: PromptAnswers, why: str, gained: tuple[str, float | None]) -> dict[str, Any]:
    by, gain = gained
    return {
        "id": row.prompt_id,
        "prompt": row.prompt,
        "category": row.category,
        "language": row.language,
        "why": why,
        "by": by,
        "gain": None if gain is None else ("+" if gain > 0 else "") + number(gain, 2),
        "tone": "open" if not gain else "good" if gain > 0 else "bad",
        "pictures": pictures(row.images),
        "before": [_answer(a) for a in row.before],
        "after": [_answer(a) for a in row.after],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    scores = [(name, value) for key, name in _NAMES.items() if (value := answer.score(key)) is not None]
    scores += sorted(answer.rules.items())
    told = [] if answer.coverage is None else [("coverage", f"{answer.coverage:.2f}")]
    whole = answer.shown
    text = whole if len(whole) <= MOST_ANSWER else whole[:MOST_ANSWER] + " … (cut for the page)"
    return {
        "pieces": pieces(answer, text),
        "scores": told + [(name, number(value, 2)) for name, value in scores],
        "length": answer.length,
        "unit": "words" if answer.tokens is None else "tokens",
    }


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt to show, and why."""

    prompt_id: str
    why: Why


def choose(
    scores: Mapping[str, float | None], *, fixed: int, extremes: int, random: int, seed: int = 0, step: int = 0
) -> tuple[Choice, ...]:
    """Choose prompts to show; each at most once, in the order fixed, worst, best, random.

    ``scores`` holds one number a prompt (mean score, or gain over the baseline); None and NaN are never worst or best. The fixed ones
    depend on ``seed`` and the prompt ids alone, the random ones on ``step`` too.
    """
    taken: dict[str, Why] = {}

    def take(ordered: list[str], count: int, why: Why) -> None:
        free = [prompt_id for prompt_id in ordered if prompt_id not in taken]
        taken.update(dict.fromkeys(free[:count], why))

    take(sorted(scores, key=lambda p: stable_hash("samples-fixed", seed, p)), fixed, "fixed")
    known = {p: value for p, value in scores.items() if value is not None and math.isfinite(value)}
    ordered = sorted(known, key=lambda p: (known[p], p))
    take(ordered, extremes, "worst")
    take(ordered[::-1], extremes, "best")
    take(sorted(scores, key=lambda p: stable_hash("samples-random", seed, step, p)), random, "random")
    return tuple(Choice(prompt_id, why) for prompt_id, why in taken.items())
