"""Sets of prompts by role: how much worse (or better) than on prompts like those of training a model does on others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keel.evaluate import statistics
from keel.evaluate.compare import Answer, PromptAnswers, scorers
from keel.evaluate.statistics import LEVEL, Estimate

Values = Mapping[str, float]  # by prompt


def gap(inside: Values, outside: Values, clusters: Mapping[str, str] | None = None, *, level: float = LEVEL) -> dict[str, Any]:
    """Means on both sides and ``gap``, outside less inside: two independent samples, interval by Welch's t over clusters of prompts
    (each prompt by itself where ``clusters`` does not name it). Raises ValueError where a side is empty."""
    first, second = (_estimate(side, clusters or {}) for side in (inside, outside))
    return {
        "in": first.interval(level).to_json(),
        "out": second.interval(level).to_json(),
        "gap": statistics.independent_difference(first, second, level).to_json(),
    }


def _estimate(values: Values, clusters: Mapping[str, str]) -> Estimate:
    sums: dict[str, list[float]] = {}
    for name in sorted(values):
        sums.setdefault(clusters.get(name, f"\0{name}"), []).append(values[name])
    return statistics.clustered([math.fsum(v) for v in sums.values()], [float(len(v)) for v in sums.values()])


def gaps(
    inside: Sequence[PromptAnswers],
    outside: Mapping[str, Sequence[PromptAnswers]],
    clusters: Mapping[str, str] | None = None,
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """By scorer: the gap of the model's win rate against the baseline, of its score, and of the baseline's score; for all outside sets
    together and (``by_set``) for each. A set without a score has no entry, and stands in ``unscored``."""
    everything = [row for rows in outside.values() for row in rows]
    out: dict[str, Any] = {}
    for scorer in scorers([*inside, *everything]):
        found: dict[str, Any] = {}
        for name, of in (("win_rate", _won), ("score", _after), ("baseline_score", _before)):
            within = _values(inside, scorer, of)
            whole = _values(everything, scorer, of)
            if not within or not whole:
                continue
            by_set = {s: v for s, rows in outside.items() if (v := _values(rows, scorer, of))}
            found[name] = gap(within, whole, clusters, level=level)
            found[name]["by_set"] = {s: gap(within, v, clusters, level=level) for s, v in by_set.items()}
            found[name]["unscored"] = [s for s in outside if s not in by_set]
        if found:
            out[scorer] = found
    return out


def _values(rows: Sequence[PromptAnswers], scorer: str, of: Any) -> dict[str, float]:
    return {row.prompt_id: value for row in rows if (value := of(row, scorer)) is not None}


def _mean(answers: Sequence[Answer], scorer: str) -> float | None:
    values = [v for a in answers if (v := a.score(scorer)) is not None]
    return math.fsum(values) / len(values) if values else None


def _before(row: PromptAnswers, scorer: str) -> float | None:
    return _mean(row.before, scorer)


def _after(row: PromptAnswers, scorer: str) -> float | None:
    return _mean(row.after, scorer)


def _won(row: PromptAnswers, scorer: str) -> float | None:
    before, after = ([v for a in side if (v := a.score(scorer)) is not None] for side in (row.before, row.after))
    return statistics.pair_score(before, after) if before and after else None
