"""Both orders, always: each pair is asked as it stands and swapped, a ranking as it stands and reversed, and the mean is the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keel.judges.ask import SIDES, Judge, Question, Said, failed

Told = Callable[[Sequence[Said]], None]
AT_ONCE = 128  # questions of one call of ``ask``: what a progress bar moves by


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one question over orders and samples. ``mean`` fails where no call, or not both orders, gave a verdict."""

    question: Question  # in the canonical order, sample 0
    calls: tuple[tuple[Question, Said], ...]  # by order, then by sample
    mean: Said


def calls_of(question: Question, samples: int = 1) -> list[Question]:
    """The calls that one question takes: every order, every sample."""
    orders = [question] if len(question.answers) == 1 else [question, question.swapped]
    return [replace(q, sample=k) for q in orders for k in range(samples)]


def verdicts(judge: Judge, questions: Sequence[Question], samples: int = 1, told: Told | None = None) -> list[Verdict]:
    """Ask each question in both orders, ``samples`` times each. ``told`` hears of answers as they come."""
    calls = [calls_of(q, samples) for q in questions]
    flat = [call for of_question in calls for call in of_question]
    said: list[Said] = []
    for start in range(0, len(flat), AT_ONCE):
        part = judge.ask(flat[start : start + AT_ONCE])
        said += part
        if told is not None:
            told(part)
    answers = iter(said)
    found: list[Verdict] = []
    for question, of_question in zip(questions, calls, strict=True):
        pairs = tuple((call, next(answers)) for call in of_question)
        found.append(Verdict(question, pairs, combine(pairs)))
    return found


def combine(calls: Sequence[tuple[Question, Said]]) -> Said:
    """The mean over samples, then over orders, so that a failed sample does not tip the scale to the other order. An order without any
    verdict is a failure of the whole: half of the evidence would have its bias in full."""
    by_order: dict[tuple[int, ...], list[Said]] = {}
    for question, said in calls:
        by_order.setdefault(question.order, []).append(said)
    costs = [said.cost for _, said in calls]
    cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
    read = {order: [s for s in said if not s.error] for order, said in by_order.items()}
    lost = next((by_order[order][0].error for order, said in read.items() if not said), None)
    if lost is not None:
        return failed(lost, cost=cost)
    return replace(mean([mean(said) for said in read.values()]), cost=cost)


def mean(said: Sequence[Said]) -> Said:
    """The mean of verdicts of one kind: of distributions, of scores by dimension, of ranks (equal mean ranks share a bucket)."""
    if all(s.probabilities is not None for s in said):
        total = {side: math.fsum((s.probabilities or {}).get(side, 0.0) for s in said) / len(said) for side in SIDES}
        return Said(probabilities=total)
    if all(s.scores is not None for s in said):
        names = sorted({name for s in said for name in s.scores or {}})
        if any(name not in (s.scores or {}) for s in said for name in names):
            return failed("dimensions: scores of different dimensions have no mean")
        return Said(scores={name: math.fsum((s.scores or {})[name] for s in said) / len(said) for name in names})
    if all(s.ranks is not None for s in said):
        return Said(ranks=_mean_ranks([s.ranks or () for s in said]))
    return failed("kinds: verdicts of different kinds have no mean")


def _mean_ranks(each: Sequence[tuple[tuple[int, ...], ...]]) -> tuple[tuple[int, ...], ...]:
    total: dict[int, float] = {}
    for buckets in each:
        above = 0
        for bucket in buckets:
            for place in bucket:
                total[place] = total.get(place, 0.0) + above + (len(bucket) + 1) / 2.0
            above += len(bucket)
    return tuple(tuple(sorted(p for p, r in total.items() if r == rank)) for rank in sorted(set(total.values())))
