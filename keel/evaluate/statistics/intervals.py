"""An estimate with its interval; proportions and means over clusters, by formulas that need no resampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from keel.evaluate.statistics.distributions import t_cdf, t_quantile

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its interval. ``n`` counts independent clusters (prompts), not samples."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """``{"mean", "low", "high", "n"}``, as it stands in ``summary.json``."""
        return asdict(self)


def wilson(successes: float, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927). ``successes`` may hold halves (ties)."""
    check_level(level)
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)), n)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over independent clusters with its standard error. ``n`` counts clusters."""

    mean: float
    error: float
    n: int

    def interval(self, level: float = LEVEL) -> Interval:
        """Student's interval with ``n - 1`` degrees of freedom; of one cluster without ends."""
        check_level(level)
        half = t_quantile((1 + level) / 2, self.n - 1) * self.error if self.n > 1 else math.inf
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided p of ``mean == null``, by Student's t. 1 where the clusters are one, or all equal to ``null``."""
        if self.n < 2 or self.mean == null:
            return 1.0
        if self.error == 0:
            return min(1.0, 2.0 ** (1 - self.n))  # all on one side, none spread: the sign test
        return min(1.0, 2 * (1 - t_cdf(abs(self.mean - null) / self.error, self.n - 1)))


def clustered(sums: Sequence[float], counts: Sequence[float] | None = None) -> Estimate:
    """``sum(sums) / sum(counts)`` over clusters: the ratio estimator with its linearised variance, ``n / (n - 1) * sum(residual^2) /
    sum(counts)^2`` (Cochran 1977, section 6.3). ``counts`` None: one a cluster. Raises ValueError on nothing and on what is not finite."""
    sums_n = np.asarray(sums, dtype=np.float64)
    counts_n = np.ones_like(sums_n) if counts is None else np.asarray(counts, dtype=np.float64)
    if sums_n.shape != counts_n.shape:
        raise ValueError(f"{len(sums_n)} sums but {len(counts_n)} counts")
    sums_n, counts_n = sums_n[counts_n > 0], counts_n[counts_n > 0]
    n = len(sums_n)
    if not n:
        raise ValueError("no values to estimate from")
    if not (np.isfinite(sums_n).all() and np.isfinite(counts_n).all()):
        raise ValueError("sums and counts must be finite: leave failed scores out before estimating")
    mean = math.fsum(sums_n) / math.fsum(counts_n)
    residuals_n = sums_n - mean * counts_n
    residuals_n[np.abs(residuals_n) < 1e-12 * np.abs(sums_n).max(initial=0)] = 0.0  # rounding is no spread
    error = math.sqrt(n / (n - 1) * float(residuals_n @ residuals_n)) / float(counts_n.sum()) if n > 1 else 0.0
    return Estimate(mean, error, n)


def share_interval(estimate: Estimate, level: float = LEVEL) -> Interval:
    """Interval of a mean of shares in [0, 1] over clusters: Wilson's, with as many trials as the clusters are worth (Korn & Graubard 1998),
    ``mean (1 - mean) / error^2``, and Student's quantile in place of the normal one. It stays inside [0, 1], and is Wilson's own where
    there are only wins and losses: three wins of three prompts are no certainty."""
    p, n = estimate.mean, estimate.n
    if not -1e-9 <= p <= 1 + 1e-9:
        raise ValueError(f"{p} is no share")
    p = min(max(p, 0.0), 1.0)
    if estimate.error == 0 or n < 2:
        return wilson(p * n, n, level=level)
    check_level(level)
    trials = p * (1 - p) / estimate.error**2
    if abs(trials - (n - 1)) < 1e-9 * n:  # wins and losses alone: the mean says what their spread is, nothing else was estimated
        return wilson(p * n, n, level=level)
    z = t_quantile((1 + level) / 2, n - 1)
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Interval(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)), n)


def pair_score(before: Sequence[float], after: Sequence[float]) -> float:
    """Share of all pairings of one prompt's samples in which ``after`` scores higher; a tie counts half.

    With 2 samples each that is the mean of 4 comparisons. Both sides need at least one finite score.
    """
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for b in before for a in after)
    return wins / (len(before) * len(after))


def win_rate(scores: Mapping[str, float], *, level: float = LEVEL) -> Interval:
    """Mean of per-prompt win shares (``pair_score``) with its interval over prompts (``share_interval``)."""
    return share_interval(clustered([scores[key] for key in sorted(scores)]), level)


def pooled_win_rate(by_seed: Sequence[Mapping[str, float]], *, level: float = LEVEL) -> Interval:
    """Win rate over several training seeds that were evaluated on the same prompts.

    A prompt is one cluster with the shares of all seeds in it (answers to the same prompt are not independent), so ``n`` is the number
    of different prompts. The interval speaks about new prompts for these seeds, not about new seeds.
    """
    prompts = sorted({prompt for scores in by_seed for prompt in scores})
    columns = [[scores[prompt] for scores in by_seed if prompt in scores] for prompt in prompts]
    return share_interval(clustered([math.fsum(c) for c in columns], [float(len(c)) for c in columns]), level)


def paired_difference(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], *, level: float = LEVEL) -> Interval:
    """Mean over prompts of (mean after - mean before), Student's interval over prompts. Only prompts with samples on both sides take
    part. Raises ValueError where there is none."""
    return difference(before, after).interval(level)


def difference(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Estimate:
    """``paired_difference`` as an estimate, for tests."""
    shared = [key for key in sorted(before) if key in after and len(before[key]) and len(after[key])]
    return clustered([math.fsum(after[k]) / len(after[k]) - math.fsum(before[k]) / len(before[k]) for k in shared])


def change_of_shares(gaps: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean of paired differences of shares, each in [-1, 1]: Student's interval, inside [-1, 1]. Where all are the same it is no certainty:
    the bound is then Wilson's of a share that no pair (or every pair) showed."""
    estimate = clustered(gaps)
    if estimate.error or estimate.n < 2:
        found = estimate.interval(level)
        return Interval(found.mean, max(-1.0, found.low), min(1.0, found.high), found.n)
    room = wilson(0, estimate.n, level=level).high
    return Interval(estimate.mean, max(-1.0, estimate.mean - room), min(1.0, estimate.mean + room), estimate.n)


def independent_difference(first: Estimate, second: Estimate, level: float = LEVEL) -> Interval:
    """``second - first`` of two independent samples: Welch's interval, Student's t with Satterthwaite's degrees of freedom (Welch 1947).
    ``n`` is that of the smaller sample; of one cluster it has no ends."""
    check_level(level)
    mean, n = second.mean - first.mean, min(first.n, second.n)
    if n < 2:
        return Interval(mean, -math.inf, math.inf, n)
    variances = (first.error**2, second.error**2)
    if not sum(variances):
        return Interval(mean, mean, mean, n)
    df = sum(variances) ** 2 / sum(v * v / (e.n - 1) for v, e in zip(variances, (first, second), strict=True))
    half = t_quantile((1 + level) / 2, df) * math.sqrt(sum(variances))
    return Interval(mean, mean - half, mean + half, n)


def check_level(level: float) -> None:
    """Raises ValueError for a level that is none."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
