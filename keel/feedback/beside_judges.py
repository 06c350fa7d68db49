"""People beside the judges that were asked first: how often they say the same. Pure functions of standing judgements.

Where what judges doubt goes to people first, the items that people have seen are no fair sample of all. So the sure and the doubted ones
are told apart, and there is no number for both together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keel.feedback.answers import likeness
from keel.feedback.doubt import Doubt, doubt_of
from keel.types import Choice, Judgement


@dataclass(frozen=True, slots=True)
class Beside:
    """The mean over ``n`` items of the likeness of people's votes to one judge's verdict (of pairs: the share that says the same of first,
    second and tie), with a bootstrap interval over items. ``decided``: the same where both sides chose one, over ``decided_n`` items."""

    judge: str
    which: str  # sure, doubted
    value: float
    low: float
    high: float
    n: int
    decided: float
    decided_n: int


def beside_judges(standing: Sequence[Judgement], machines: Container[str], sure: float, scale: float = 1.0) -> tuple[Beside, ...]:
    """Of each judge with items that people voted on. ``standing``: judgements that nobody replaced or took back."""
    people: dict[str, list[Judgement]] = defaultdict(list)
    judged: dict[str, dict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    for j in standing:
        if j.by in machines:
            judged[j.by][j.task_id].append(j)
        elif j.purpose == "work" and not (isinstance(j.answer, Choice) and j.answer.chosen == "cannot"):
            people[j.task_id].append(j)
    return tuple(row for name in sorted(judged) for row in _rows(name, judged[name], people, sure, scale))


def _rows(
    name: str, said: Mapping[str, Sequence[Judgement]], people: Mapping[str, Sequence[Judgement]], sure: float, scale: float
) -> list[Beside]:
    alike: dict[str, list[float]] = {"sure": [], "doubted": []}
    decided: dict[str, list[float]] = {"sure": [], "doubted": []}
    for task, js in said.items():
        mean = next((j for j in js if j.purpose == "work" and j.repeat == 0), None)
        votes = people.get(task, ())
        if mean is None or not votes:
            continue
        doubt: Doubt = doubt_of(js)
        which = "sure" if doubt.is_sure(sure) else "doubted"
        alike[which].append(math.fsum(likeness(j.answer, mean.answer, scale) for j in votes) / len(votes))
        chose = [j for j in votes if _side(j) and _side(mean)]
        if chose:
            decided[which].append(math.fsum(_side(j) == _side(mean) for j in chose) / len(chose))
    return [Beside(name, which, *_interval(alike[which]), *_mean(decided[which])) for which in alike if alike[which]]


def _side(j: Judgement) -> str:
    chosen = j.answer.chosen if isinstance(j.answer, Choice) else ""
    return chosen if chosen in ("first", "second") else ""


def _mean(values: Sequence[float]) -> tuple[float, int]:
    return (math.fsum(values) / len(values) if values else math.nan), len(values)


def _interval(values: Sequence[float], draws: int = 500, seed: int = 0) -> tuple[float, float, float, int]:
    value_I = np.array(values)
    means = value_I[np.random.default_rng(seed).integers(0, len(value_I), (draws, len(value_I)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(value_I.mean()), float(low), float(high), len(value_I)
