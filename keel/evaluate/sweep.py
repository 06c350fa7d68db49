"""Which way of decoding? Scores of the same prompts at each temperature and top-p, and the setting that surprises least: of all that are
not shown to be worse than the best, the nearest to what is used now. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keel.evaluate.statistics import DRAWS, LEVEL, Interval, cluster_bootstrap


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting. ``scores_P``: by prompt, the mean score of its answers; NaN where none could be scored."""

    temperature: float
    top_p: float
    scores_P: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}"

    def distance(self, temperature: float, top_p: float) -> float:
        """How far it is from a setting."""
        return abs(self.temperature - temperature) + abs(self.top_p - top_p)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A cell with its mean, and its difference to the best one on the prompts that both have; ``kept``: not shown to be worse."""

    cell: Cell
    mean: Interval
    to_best: Interval | None  # None: it is the best
    kept: bool

    def to_json(self) -> dict[str, Any]:
        difference = None if self.to_best is None else self.to_best.to_json()
        where = {"temperature": self.cell.temperature, "top_p": self.cell.top_p}
        return {**where, "score": self.mean.to_json(), "to_best": difference, "not_worse": self.kept}


def rank(cells: Sequence[Cell], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0) -> list[Ranked]:
    """Cells by mean, the best first. The best was picked by the same scores, so a cell counts as worse only where the interval of its
    paired difference lies below 0 at a level shared among all pairs (Bonferroni).

    Raises ValueError for no cells, or one that nothing was scored of.
    """
    if not cells:
        raise ValueError("nothing to rank")
    means = [_mean(cell.scores_P, level, draws, seed) for cell in cells]
    order = sorted(range(len(cells)), key=lambda i: (-means[i].mean, cells[i].temperature, -cells[i].top_p))
    best = cells[order[0]]
    pairs = max(1, len(cells) * (len(cells) - 1) // 2)
    shared = 1 - (1 - level) / pairs
    found: list[Ranked] = []
    for i in order:
        if i == order[0]:
            found.append(Ranked(cells[i], means[i], None, True))
            continue
        differences = tuple(a - b for a, b in zip(cells[i].scores_P, best.scores_P, strict=True))
        to_best = _mean(differences, shared, draws, seed)
        found.append(Ranked(cells[i], means[i], to_best, to_best.high >= 0))
    return found


def least_surprising(ranked: Sequence[Ranked], temperature: float, top_p: float) -> Ranked:
    """The cell nearest to what is used now, of those that are not shown to be worse than the best."""
    kept = [r for r in ranked if r.kept]
    return min(kept, key=lambda r: (r.cell.distance(temperature, top_p), -r.mean.mean))


def _mean(values: Sequence[float], level: float, draws: int, seed: int) -> Interval:
    there = [v for v in values if math.isfinite(v)]
    return cluster_bootstrap(there, [1.0] * len(there), draws=draws, level=level, seed=seed)
