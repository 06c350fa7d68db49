"""What two models' answers to the same prompts make up, by type, as a detector of the user's found it, with coverage beside it.

A rate is the share of answers with at least one error; an answer that says nothing has none, and a coverage of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keel.core.hashing import stable_hash
from keel.evaluate import statistics
from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.hallucination.result import WEIGHTS
from keel.evaluate.statistics import Interval

_KIND = {"existence": "object", "count": "object", "attribute": "attribute", "relation": "relation"}
_EMPTY = 3  # words; what is shorter says nothing


def made_up(rows: Sequence[PromptAnswers], *, draws: int, level: float, seed: int) -> dict[str, Any] | None:
    """Rates by type, the weighted one (object 0.5, attribute 0.3, relation 0.2), errors an answer, coverage and the share of answers that
    say nothing, each ``before``, ``after``, as ``difference`` paired by prompt and, for rates, as relative ``change``; intervals over
    prompts. None where no detector looked."""
    looked = [row for row in rows if _looked(row.before) and _looked(row.after)]
    if not looked:
        return None
    types = sorted({kind for row in looked for a in (*row.before, *row.after) for kind, _, _ in a.errors or ()})
    measures: dict[str, Callable[[Answer], float]] = {
        "any": lambda a: float(bool(a.errors)),
        "errors_per_answer": lambda a: float(len(a.errors or ())),
        "weighted": _weighted,
        **{kind: (lambda a, kind=kind: float(any(k == kind for k, _, _ in a.errors or ()))) for kind in types},
    }
    found = {name: _compared(looked, measure, True, draws, level, stable_hash(seed, name)) for name, measure in measures.items()}
    beside: dict[str, Callable[[Answer], float]] = {"silent": lambda a: float(len(a.text.split()) < _EMPTY and not _han(a.text))}
    if all(a.coverage is not None for row in looked for a in (*row.before, *row.after)):
        beside["coverage"] = lambda a: a.coverage or 0.0
    told = {name: _compared(looked, measure, False, draws, level, stable_hash(seed, name)) for name, measure in beside.items()}
    return {"n_prompts": len(looked), "rates": found, **told}


def _looked(answers: Sequence[Answer]) -> bool:
    return bool(answers) and all(a.errors is not None for a in answers)


def _weighted(answer: Answer) -> float:
    """In [0, 1]: 0.5 for an error about an object, 0.3 about an attribute, 0.2 about a relation, whatever their number."""
    return sum(WEIGHTS[kind] for kind in {_KIND[k] for k, _, _ in answer.errors or () if k in _KIND})


def _han(text: str) -> bool:
    """Chinese has no spaces: a text of more than a few of its characters says something."""
    return sum("\u4e00" <= c <= "\u9fff" for c in text) >= _EMPTY


def _compared(
    rows: Sequence[PromptAnswers], measure: Callable[[Answer], float], rate: bool, draws: int, level: float, seed: int
) -> dict[str, Any]:
    how = {"draws": draws, "level": level, "seed": seed}
    before, after = ({row.prompt_id: [measure(a) for a in getattr(row, side)] for row in rows} for side in ("before", "after"))
    found: dict[str, Interval | None] = {
        "before": statistics.mean_interval(before, **how),
        "after": statistics.mean_interval(after, **how),
        "difference": statistics.paired_difference(before, after, level=level),
    }
    if rate:
        found["change"] = statistics.relative_change(*({k: sum(v) / len(v) for k, v in side.items()} for side in (before, after)), **how)
    return {name: None if interval is None else interval.to_json() for name, interval in found.items()}
