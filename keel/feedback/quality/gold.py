"""Accuracy on tasks whose answer is known, with Wilson's interval; and how often a person says again what they said before."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from keel.feedback.quality.others import gold_of
from keel.feedback.reliability.votes import Votes


@dataclass(frozen=True, slots=True)
class Rate:
    """``hits`` of ``n``, with Wilson's interval (1927); all NaN where n is 0."""

    hits: int
    n: int
    rate: float
    low: float
    high: float


def rate(hits: int, n: int, level: float = 0.95) -> Rate:
    """A share with its interval. Raises ValueError unless 0 <= hits <= n."""
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no share")
    if n == 0:
        return Rate(0, 0, math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    p, scale = hits / n, 1.0 + z * z / n
    middle, half = (p + z * z / (2 * n)) / scale, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return Rate(hits, n, p, max(0.0, middle - half), min(1.0, middle + half))


def gold_accuracy(votes: Votes, gold: Mapping[str, str]) -> tuple[Rate, ...]:
    """Of each annotator, on first votes: later ones may know the answer."""
    first = votes.first_votes()
    known_V = gold_of(first, gold)
    right_V = (known_V == first.label_V) & (known_V >= 0)
    A = len(votes.annotators)
    hits_A = np.bincount(first.annotator_V[right_V], minlength=A)
    n_A = np.bincount(first.annotator_V[known_V >= 0], minlength=A)
    return tuple(rate(int(h), int(n)) for h, n in zip(hits_A, n_A))


@dataclass(frozen=True, slots=True)
class Repeats:
    """What became of tasks that a person was asked twice: ``same`` label; ``order_flips``: of repeats with the sides exchanged on which
    both times a side was chosen, those that chose the same side of the screen, which is the other candidate."""

    same: Rate
    same_swapped: Rate  # of them with sides exchanged
    order_flips: Rate


def repeats(votes: Votes) -> tuple[Repeats, ...]:
    """Of each annotator; each later vote is compared with the person's first on that task. Unknown sides count as not swapped."""
    first: dict[tuple[int, int], int] = {}
    found: dict[int, list[tuple[bool, bool, bool]]] = defaultdict(list)
    decided = {i for i, name in enumerate(votes.classes) if name in ("first", "second")}
    rows = zip(votes.task_V.tolist(), votes.annotator_V.tolist(), votes.label_V.tolist(), votes.side_V.tolist(), votes.repeat_V.tolist())
    listed = list(rows)
    for i, (t, a, _, _, again) in enumerate(listed):
        if again == 0:
            first[t, a] = i
    for t, a, label, side, again in listed:
        if again == 0 or (t, a) not in first:
            continue
        _, _, label_0, side_0, _ = listed[first[t, a]]
        swapped = side >= 0 and side_0 >= 0 and side != side_0
        found[a].append((label == label_0, swapped, swapped and label in decided and label_0 in decided))
    return tuple(_summed(found[a]) for a in range(len(votes.annotators)))


def _summed(rows: list[tuple[bool, bool, bool]]) -> Repeats:
    swapped = [same for same, turned, _ in rows if turned]
    decided = [same for same, _, both in rows if both]
    return Repeats(
        same=rate(sum(same for same, _, _ in rows), len(rows)),
        same_swapped=rate(sum(swapped), len(swapped)),
        order_flips=rate(len(decided) - sum(decided), len(decided)),
    )
