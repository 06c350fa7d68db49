"""What a reward model loses when it is kept in fewer bits: the same labels, scored twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keel.evaluate.reward_measures import ScoredLabel
from keel.evaluate.statistics import Interval, cluster_bootstrap, wilson


@dataclass(frozen=True, slots=True)
class AccuracyLoss:
    """``interval``: share of pairs ordered as people did, before less after; over prompts. ``turned``: share of pairs whose order changed.
    ``drift``: root mean square of the scores' change, in standard deviations of the scores before."""

    interval: Interval
    before: float
    after: float
    turned: float
    drift: float
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.after, "turned": self.turned, "drift": self.drift, "pairs": self.pairs}


def accuracy_loss(before: Sequence[ScoredLabel], after: Sequence[ScoredLabel]) -> AccuracyLoss | None:
    """Paired by prompt; pairs that people called a tie are left out, equal scores count half. None where no pair is decided.

    Where no pair changes at all there is no spread to resample: the interval is then as wide as Wilson's of no change in as many prompts.
    """
    hits: dict[str, list[tuple[float, float]]] = {}
    turned = 0
    for old, new in zip(before, after, strict=True):
        assert old.prompt_id == new.prompt_id, "the same labels are scored twice"
        for (a, b, label), (c, d, _) in zip(old.preferences, new.preferences, strict=True):
            if label != 0.5:
                one, two = old.scores[a] - old.scores[b], new.scores[c] - new.scores[d]
                turned += (one > 0) != (two > 0)
                hits.setdefault(old.prompt_id, []).append((_hit(one, label), _hit(two, label)))
    if not hits:
        return None
    clusters = [hits[key] for key in sorted(hits)]
    gaps = [math.fsum(x - y for x, y in cluster) for cluster in clusters]
    if any(gaps):
        interval = cluster_bootstrap(gaps, [float(len(c)) for c in clusters])
    else:
        most = wilson(0, len(clusters)).high
        interval = Interval(0.0, -most, most, len(clusters))
    flat = [pair for cluster in clusters for pair in cluster]
    n = len(flat)
    return AccuracyLoss(
        interval,
        math.fsum(x for x, _ in flat) / n,
        math.fsum(y for _, y in flat) / n,
        turned / n,
        _drift(before, after),
        n,
    )


def _hit(margin: float, label: float) -> float:
    signed = margin if label > 0.5 else -margin
    return 1.0 if signed > 0 else 0.5 if signed == 0 else 0.0


def _drift(before: Sequence[ScoredLabel], after: Sequence[ScoredLabel]) -> float:
    old = [s for j in before for s in j.scores]
    new = [s for j in after for s in j.scores]
    mean = math.fsum(old) / len(old)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in old) / len(old))
    moved = math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(old, new, strict=True)) / len(old))
    return moved / spread if spread else 0.0
