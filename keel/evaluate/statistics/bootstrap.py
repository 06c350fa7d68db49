"""The bootstrap over clusters. All randomness is a hash of what is asked, so the same data give the same interval on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate.statistics.intervals import LEVEL, Interval, check_level

Array = np.ndarray
DRAWS = 10_000


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


def _check(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    check_level(level)
