"""The effect of the treatment after any number of units, for the outcome and for each guard alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from keel.evaluate.ab import betting, mixture


@dataclass(frozen=True, slots=True)
class Stream:
    """Values of units in their order. ``treated_n`` None: ``values_n`` are differences of the arms (offline), else each is of its arm.
    ``low`` and ``high`` bound a difference offline and a value online; None = nobody knows."""

    values_n: np.ndarray
    treated_n: np.ndarray | None
    share: float
    low: float | None = None
    high: float | None = None

    def __len__(self) -> int:
        return len(self.values_n)

    def at(self, n: int) -> tuple[float, float, int]:
        """Effect, its standard error and degrees of freedom after ``n`` units. The error is NaN where it cannot be told."""
        x = self.values_n[:n]
        if self.treated_n is None:
            return float(x.mean()) if n else 0.0, float(x.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan, n - 1
        t = self.treated_n[:n]
        sides = x[t], x[~t]
        if min(map(len, sides)) < 2:
            return 0.0, math.nan, 0
        error = math.sqrt(sum(float(s.var(ddof=1)) / len(s) for s in sides))
        return float(sides[0].mean() - sides[1].mean()), error, n - 2

    def bets(self) -> tuple[np.ndarray, float]:
        """Values in [0, 1] whose mean is ``1/2 + scale * effect``, and that scale. Online each unit is weighed by the inverse of its chance
        to be where it is, after what could be foretold (the mean of the units before) is taken off: the mean stays the effect, the spread
        falls. Raises ValueError where no bounds are known."""
        if self.low is None or self.high is None:
            raise ValueError("bets need bounds")
        width = self.high - self.low
        if self.treated_n is None:  # of a difference, which lies evenly around 0
            return (self.values_n - self.low) / width, 1 / width
        y = (self.values_n - self.low) / width
        before = np.concatenate([[0.5], (0.5 + np.cumsum(y)[:-1]) / np.arange(2, len(y) + 1)]) if len(y) else y
        q = min(self.share, 1 - self.share)
        weighed = (y - before) * np.where(self.treated_n, 1 / self.share, -1 / (1 - self.share))
        return np.clip((q * weighed + 1) / 2, 0.0, 1.0), q / 2 / width

    def betting_interval(self, alpha: float) -> tuple[float, float]:
        """Always-valid bounds of the effect."""
        x, scale = self.bets()
        return tuple((end - 0.5) / scale for end in betting.interval(x, alpha))  # type: ignore[return-value]

    def spread(self, n: int) -> float:
        """Standard deviation of a unit's contribution to the effect."""
        return self.at(n)[1] * math.sqrt(n)

    def mixture_interval(self, alpha: float, horizon: float, burn_in: int) -> tuple[float, float]:
        """The intersection of the asymptotic intervals at up to 500 looks from the burn-in on; without ends before it."""
        low, high = -math.inf, math.inf
        looks = np.unique(np.geomspace(burn_in, len(self), 500).astype(int)) if len(self) >= burn_in else []
        for n in map(int, looks):
            effect, error, _ = self.at(n)
            if not error > 0:
                continue
            half = mixture.half_width(n, error * math.sqrt(n), horizon, alpha)
            new = max(low, effect - half), min(high, effect + half)
            low, high = new if new[0] < new[1] else (effect - half, effect + half)
        return low, high
