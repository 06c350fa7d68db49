"""A run's metrics as diagnosis asks for them: values, how they changed, and where something was first so."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keel.runs.columns import Columns, Floats

FEW = 20  # steps; with fewer a symptom would be chance
REWARD, KL, LENGTH = ("reward", "objective/rlhf_reward"), ("kl", "objective/kl"), ("completions/mean_length",)
ENTROPY = ("entropy", "objective/entropy")


@dataclass(frozen=True, slots=True)
class Seen:
    """A run's metrics as the rules ask for them."""

    metrics: Columns

    def points(self, *names: str) -> tuple[Floats, Floats]:
        """(steps [N], values [N]) of the first of these metrics that the run has, non-finite values left out; empty where it has none."""
        for name in names:
            steps, values = self.metrics.points(name)
            if len(values):
                fine = np.isfinite(values)
                return steps[fine], values[fine]
        return np.empty(0), np.empty(0)

    def of(self, *names: str) -> Floats:
        """The values of ``points``."""
        return self.points(*names)[1]

    def ratio(self, *names: str) -> float:
        """The last tenth's mean over the first tenth's; NaN where there is none."""
        values = self.of(*names)
        tenth = max(1, len(values) // 10)
        first, last = (float(np.mean(values[:tenth])), float(np.mean(values[-tenth:]))) if len(values) >= 2 else (0.0, 0.0)
        return last / first if first > 0 else math.nan

    def change(self, *names: str) -> float:
        """The last tenth's mean less the first tenth's, in spreads of a step about the mean of its ten; 0 where there are too few."""
        values = self.of(*names)
        if len(values) < FEW:
            return 0.0
        tenth = max(5, len(values) // 10)
        return float((np.mean(values[-tenth:]) - np.mean(values[:tenth])) / max(noise(values), 1e-12))

    def last(self, *names: str) -> float:
        """Mean of the last tenth, NaN where there is none."""
        values = self.of(*names)
        return float(np.mean(values[-max(1, len(values) // 10) :])) if len(values) else math.nan


@dataclass(frozen=True, slots=True)
class Shows:
    """A symptom that is there: what tells, and the step from which on it is seen (infinite: it is of the whole run)."""

    evidence: str
    step: float = math.inf


def noise(values: Floats) -> float:
    """Spread of single steps, slow changes apart: that of the differences of neighbours, over the square root of 2."""
    return float(np.std(np.diff(values)) / math.sqrt(2)) if len(values) > 2 else 0.0


def rolling(values: Floats, n: int) -> Floats:
    """Means of ``n`` neighbours [N - n + 1]; empty where there are fewer."""
    return np.convolve(values, np.ones(n) / n, "valid") if len(values) >= n else np.empty(0)


def first_true(found: NDArray[np.bool_]) -> int | None:
    """The first place that is so."""
    return int(np.argmax(found)) if len(found) and bool(found.any()) else None
