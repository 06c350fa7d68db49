"""Estimates with honest intervals. All randomness is a hash of what is asked, so the same data give the same interval on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from keel.core.hashing import stable_hash, uniform

Array = np.ndarray
DRAWS = 10_000
LEVEL = 0.95
# Student's t for a 95 % interval by degrees of freedom, to 3 digits
_T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
)


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


def cluster_bootstrap(
    sums: Sequence[float], counts: Sequence[float], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Percentile bootstrap of ``sum(sums) / sum(counts)`` over clusters: whole clusters are drawn with replacement.

    ``sums[i]`` and ``counts[i]`` are the total and the number of values of cluster i (a prompt with all its samples, pairings and
    seeds). Clusters without values are left out. Raises ValueError when nothing is left. Efron & Tibshirani (1993), chapter 13.
    """
    if len(sums) != len(counts):
        raise ValueError(f"{len(sums)} sums but {len(counts)} counts")
    _check(draws, level)
    kept = [(s, c) for s, c in zip(sums, counts) if c > 0]
    if not kept:
        raise ValueError("no values to estimate from")
    if not all(math.isfinite(s) and math.isfinite(c) for s, c in kept):
        raise ValueError("sums and counts must be finite: leave failed scores out before estimating")
    sums_n, counts_n = (np.array(column, dtype=np.float64) for column in zip(*kept))
    estimates = _resample(sums_n, counts_n, draws, seed)
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    mean = float(sums_n.sum() / counts_n.sum())
    return Interval(mean, min(float(low), mean), max(float(high), mean), len(kept))


def cluster_totals(
    columns_nK: Sequence[Sequence[float]],
    of: Callable[[Array], Array],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap of a function of totals (kappa, a difference of two rates) over clusters.

    ``columns_nK[i]`` are K additive numbers of cluster i; ``of`` takes totals [draws, K] to estimates [draws], NaN where it is not
    defined. None where the data's own estimate, or more than one in ten of the resampled, is not defined.
    """
    _check(draws, level)
    if not columns_nK:
        return None
    table_nK = np.asarray(columns_nK, dtype=np.float64)
    n = len(table_nK)
    keys = np.array([stable_hash("bootstrap", seed, draw) for draw in range(draws)], dtype=np.uint64)
    totals = np.zeros((draws, table_nK.shape[1]))
    for position in range(n):
        totals += table_nK[np.minimum((uniform(keys, position) * n).astype(np.int64), n - 1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, estimates = float(of(table_nK.sum(0)[None])[0]), of(totals)
    estimates = estimates[np.isfinite(estimates)]
    if not math.isfinite(mean) or len(estimates) < 0.9 * draws:
        return None
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n)


def _resample(sums_n: Array, counts_n: Array, draws: int, seed: int) -> Array:
    n = len(sums_n)
    keys = np.array([stable_hash("bootstrap", seed, draw) for draw in range(draws)], dtype=np.uint64)
    totals, weights = np.zeros(draws), np.zeros(draws)
    for position in range(n):  # one drawn cluster of every resample at a time: the matrix draws x n is never held
        index = np.minimum((uniform(keys, position) * n).astype(np.int64), n - 1)
        totals += sums_n[index]
        weights += counts_n[index]
    return totals / weights


def mean_interval(values: Mapping[str, Sequence[float]], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Mean of per-prompt means, each prompt with the same weight, interval over prompts. ``values`` is samples by prompt id."""
    ordered = [values[key] for key in sorted(values) if len(values[key])]
    means = [math.fsum(v) / len(v) for v in ordered]
    return cluster_bootstrap(means, [1.0] * len(means), draws=draws, level=level, seed=seed)


def pair_score(before: Sequence[float], after: Sequence[float]) -> float:
    """Share of all pairings of one prompt's samples in which ``after`` scores higher; a tie counts half.

    With 2 samples each that is the mean of 4 comparisons. Both sides need at least one finite score.
    """
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for b in before for a in after)
    return wins / (len(before) * len(after))


def win_rate(scores: Mapping[str, float], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Mean of per-prompt win shares (``pair_score``) with a bootstrap interval over prompts.

    When every prompt has the same share the bootstrap has no spread, and would claim certainty from three prompts: Wilson's interval
    over the prompts is given instead.
    """
    values = [scores[key] for key in sorted(scores)]
    if values and min(values) == max(values):
        return wilson(math.fsum(values), len(values), level=level)
    return cluster_bootstrap(values, [1.0] * len(values), draws=draws, level=level, seed=seed)


def pooled_win_rate(by_seed: Sequence[Mapping[str, float]], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Win rate over several training seeds that were evaluated on the same prompts.

    A prompt is one cluster with the shares of all seeds in it (answers to the same prompt are not independent), so ``n`` is the number
    of different prompts. The interval speaks about new prompts for these seeds, not about new seeds.
    """
    prompts = sorted({prompt for scores in by_seed for prompt in scores})
    columns = [[scores[prompt] for scores in by_seed if prompt in scores] for prompt in prompts]
    flat = [value for column in columns for value in column]
    if flat and min(flat) == max(flat):
        return wilson(flat[0] * len(prompts), len(prompts), level=level)
    return cluster_bootstrap([math.fsum(c) for c in columns], [float(len(c)) for c in columns], draws=draws, level=level, seed=seed)


def paired_difference(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean over prompts of (mean after - mean before), interval over prompts. Only prompts with samples on both sides take part."""
    shared = [key for key in sorted(before) if key in after and len(before[key]) and len(after[key])]
    gaps = [math.fsum(after[k]) / len(after[k]) - math.fsum(before[k]) / len(before[k]) for k in shared]
    return cluster_bootstrap(gaps, [1.0] * len(gaps), draws=draws, level=level, seed=seed)


def relative_change(
    before: Mapping[str, float], after: Mapping[str, float], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval | None:
    """``sum(after) / sum(before) - 1`` over the prompts of both, interval over prompts: -0.4 is 40% less. None where ``before`` is all 0,
    or so rarely above it that some resamples have nothing."""
    shared = sorted(before.keys() & after.keys())
    old_n, new_n = (np.array([side[key] for key in shared], dtype=np.float64) for side in (before, after))
    if not len(shared) or old_n.sum() <= 0:
        return None
    _check(draws, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimates = _resample(new_n, old_n, draws, seed) - 1
    if not np.isfinite(estimates).all():
        return None
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    mean = float(new_n.sum() / old_n.sum()) - 1
    return Interval(mean, min(float(low), mean), max(float(high), mean), len(shared))


def wilson(successes: float, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927). ``successes`` may hold halves (ties)."""
    _check(1, level)
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)), n)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; within 0.002 beyond 19 degrees of freedom (Cornish and Fisher's expansion of the normal one)."""
    if freedom < 1:
        return math.nan
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def ranks(values: Sequence[float]) -> Array:
    """Ranks from 1, equal values share their mean rank. float64 [n]."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties by mean rank. None when a side is constant: the correlation is not defined then."""
    _same_length(x, y)
    rx, ry = ranks(x), ranks(y)
    if len(rx) < 2 or np.ptp(rx) == 0 or np.ptp(ry) == 0:
        return None
    rx, ry = rx - rx.mean(), ry - ry.mean()
    return float((rx @ ry) / math.sqrt((rx @ rx) * (ry @ ry)))


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y). None when a side is constant."""
    _same_length(x, y)
    ax, ay = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    balance = untied_x = untied_y = 0.0
    for i in range(len(ax) - 1):  # one row at a time: the n x n matrix is never held
        sx, sy = np.sign(ax[i + 1 :] - ax[i]), np.sign(ay[i + 1 :] - ay[i])
        balance += float(sx @ sy)
        untied_x += float(np.abs(sx).sum())
        untied_y += float(np.abs(sy).sum())
    if untied_x == 0 or untied_y == 0:
        return None
    return balance / math.sqrt(untied_x * untied_y)


def _same_length(x: Sequence[float], y: Sequence[float]) -> None:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")


def _check(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
