"""A judge as scorer of an evaluation: the win rate that it sees, and the one behind its errors, both with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate import statistics
from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.statistics import Interval
from keel.judges.ask import Judge, Question
from keel.judges.orders import verdicts
from keel.types import Candidate, Prompt

JUDGE = "judge"  # its name among the scorers
LEAST = 0.55  # agreement below which nothing can be told behind a judge's errors


@dataclass(frozen=True, slots=True)
class Wins:
    """Shares of the pairs that the trained model won, by prompt (ties half), and what asking took."""

    shares: Mapping[str, float]
    pairs: int
    failures: int
    cost: float | None
    ties: float = 0.0  # share of the verdicts
    by_number: Mapping[str, Mapping[int, float]] = field(default_factory=dict[str, "Mapping[int, float]"])  # by prompt and answer


Sides = tuple[Prompt, Sequence[str | None], Sequence[str | None]]  # answers of the baseline and of the trained model; None = it failed


def judge_answers(judge: Judge, rows: Iterable[Sides], samples: int = 1) -> Wins:
    """Each answer of the baseline against the trained model's of the same number, in both orders."""
    asked = [
        (prompt.prompt_id, number, Question(prompt, (Candidate("before", b), Candidate("after", a))))
        for prompt, before, after in rows
        for number, (b, a) in enumerate(zip(before, after))
        if a is not None and b is not None
    ]
    found = verdicts(judge, [q for _, _, q in asked], samples)
    by: dict[str, dict[int, float]] = {}
    told = [v.mean.chosen for v in found if not v.mean.error]
    for (name, number, _), verdict in zip(asked, found, strict=True):
        if not verdict.mean.error:
            by.setdefault(name, {})[number] = {"first": 0.0, "second": 1.0, "tie": 0.5}[verdict.mean.chosen]
    costs = [v.mean.cost for v in found]
    cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
    shares = {name: math.fsum(x.values()) / len(x) for name, x in by.items()}
    ties = told.count("tie") / len(told) if told else 0.0
    return Wins(shares, len(asked), sum(bool(v.mean.error) for v in found), cost, ties, by)


def with_judge(rows: Sequence[PromptAnswers], wins: Wins | None) -> list[PromptAnswers]:
    """The rows with what the judge said of each answer as its score ``judge``: 1 where it is the better of its pair, 0.5 of a tie, else 0.
    An answer that was not judged has none."""
    if wins is None:
        return list(rows)

    def scored(answers: Sequence[Answer], found: Mapping[int, float]) -> tuple[Answer, ...]:
        return tuple(replace(a, rules={**a.rules, JUDGE: found[n]}) if n in found else a for n, a in enumerate(answers))

    made: list[PromptAnswers] = []
    for row in rows:
        won = wins.by_number.get(row.prompt_id, {})
        made.append(replace(row, before=scored(row.before, {n: 1 - w for n, w in won.items()}), after=scored(row.after, won)))
    return made


def summary(judged: Wins, report: Mapping[str, Any] | None, *, draws: int, level: float, seed: int) -> dict[str, Any]:
    """``win_rate_judge`` of summary.json. With a report the interval carries the judge's own error, else it says that it does not."""
    more = {"pairs": judged.pairs, "failures": judged.failures, "cost": judged.cost, "error_carried": False}
    if not judged.shares:
        return more
    raw = statistics.win_rate(judged.shares, level=level)
    agreement = None if report is None else report["measures"]["agreement_decided"]
    if report is None or agreement is None or agreement["mean"] < LEAST:
        return raw.to_json() | more
    found = behind_errors(judged.shares, agreement, report["settings"]["level"], draws=draws, level=level, seed=seed)
    return found.to_json() | more | {"error_carried": True, "as_judged": raw.to_json(), "agreement": dict(agreement)}


def behind_errors(
    shares: Mapping[str, float], agreement: Mapping[str, float], agreement_level: float, *, draws: int, level: float, seed: int
) -> Interval:
    """The win rate w behind a judge that agrees with people on the share a of decided pairs, whichever side is better there:
    ``seen = a w + (1 - a) (1 - w)``, so ``w = 1/2 + (seen - 1/2) / (2 a - 1)`` (Rogan & Gladen 1978 with both error rates the same; a tie
    counts half and stays a tie). Each resample of the prompts is undone with an agreement of its own, drawn from a normal with the report's
    interval: the width is that of both."""
    names = sorted(shares)
    values_n = np.array([shares[name] for name in names])
    keys = np.array([stable_hash("behind errors", seed, draw) for draw in range(draws)], dtype=np.uint64)
    n = len(values_n)
    seen = np.zeros(draws)
    for position in range(n):
        seen += values_n[np.minimum((uniform(keys, position) * n).astype(np.int64), n - 1)]
    seen /= n
    if values_n.min() == values_n.max():  # no spread to resample: as wide as Wilson's interval
        seen = _wilson_draws(float(values_n[0]), n, uniform(keys, n + 1))
    z = NormalDist().inv_cdf((1 + agreement_level) / 2)
    deviation = (agreement["high"] - agreement["low"]) / (2 * z)
    normal = np.array([NormalDist().inv_cdf(min(max(u, 1e-9), 1 - 1e-9)) for u in uniform(keys, n)])
    a = np.clip(agreement["mean"] + deviation * normal, LEAST - 0.04, 1.0)
    estimates = np.clip(0.5 + (seen - 0.5) / (2 * a - 1), 0.0, 1.0)
    mean = min(max(0.5 + (float(values_n.mean()) - 0.5) / (2 * agreement["mean"] - 1), 0.0), 1.0)
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)


def _wilson_draws(share: float, n: int, u: np.ndarray) -> np.ndarray:
    """Draws whose quantiles are the ends of Wilson's intervals of every level."""
    grid = np.linspace(0.001, 0.999, 999)
    ends = []
    for q in grid:
        interval = statistics.wilson(share * n, n, level=max(abs(2 * q - 1), 1e-6))
        ends.append(interval.low if q < 0.5 else interval.high)
    return np.interp(u, grid, ends)
