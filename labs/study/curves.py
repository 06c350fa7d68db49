"""Pure parts of the studies: best of n without bias, peaks and falls with intervals, the published forms, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Spread(NamedTuple):
    """A mean over seeds with its 95% interval (Student's t); without bounds where there is one seed."""

    mean: float
    low: float | None
    high: float | None


# two-sided 95% quantiles of Student's t by degrees of freedom
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101)


def spread(values: Sequence[float]) -> Spread:
    """Mean and interval of one number a seed."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, None, None)
    half = (_T95[len(values) - 2] if len(values) - 2 < len(_T95) else 1.96) * standard_error(values)
    return Spread(mean, mean - half, mean + half)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 for one value."""
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else 0.0


# ------------------------------------------------------------------------------------------------------------------- best of n


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n to what it draws from, in nats: log n - (n - 1) / n (Stiennon et al. 2020, arXiv:2009.01325; an upper bound that is
    exact where no two answers score the same, Beirami et al. 2024, arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def best_of_n(scores_N: Tensor, values_N: Tensor, n: int) -> float:
    """The expected value of the answer with the best score among ``n`` of the ``N`` drawn, over all draws without replacement: the i-th
    smallest score (from 1) is the best of n with probability C(i-1, n-1) / C(N, n) (Nakano et al. 2021, arXiv:2112.09332, eq. 4). Answers
    with the same score share their values. Scores and values [N].

    Raises ValueError when ``n`` is not between 1 and N."""
    size = len(scores_N)
    if not 1 <= n <= size:
        raise ValueError(f"best of {n} from {size} answers")
    ordered, order_N = scores_N.double().sort()
    sorted_N = values_N.double()[order_N]
    _, group_N, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, group_N, sorted_N) / counts
    rank_N = torch.arange(1, size + 1, dtype=torch.float64)
    outside = rank_N < n
    above_N = (rank_N - n).masked_fill(outside, 0.0)
    log_N = torch.lgamma(rank_N) - torch.lgamma(above_N + 1) - math.lgamma(n) - _log_choose(size, n)
    weight_N = log_N.exp().masked_fill(outside, 0.0)
    return float((weight_N * means[group_N]).sum())


def _log_choose(size: int, n: int) -> float:
    return math.lgamma(size + 1) - math.lgamma(n + 1) - math.lgamma(size - n + 1)


# -------------------------------------------------------------------------------------------------------------- peak and fall


def peak(values: Sequence[float]) -> int:
    """Index of the first greatest value."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def cross_peaks(curves: Sequence[Sequence[float]]) -> list[int]:
    """For each seed's curve the peak of the mean of the other seeds' (its own where it is the only one): what a seed's noise lifted does
    not choose its own peak."""
    columns = list(zip(*curves, strict=True))
    if len(curves) == 1:
        return [peak(curves[0])]
    return [peak([sum(column) - column[seed] for column in columns]) for seed in range(len(curves))]


def at_kl(kls: Sequence[float], values: Sequence[float], kl: float) -> float:
    """The value at a KL, in a straight line between the first two points that enclose it. Raises ValueError for one never reached."""
    if kls and kls[0] == kl:
        return values[0]
    for i in range(1, len(kls)):
        low, high = kls[i - 1], kls[i]
        if min(low, high) <= kl <= max(low, high):
            share = (kl - low) / (high - low) if high != low else 1.0
            return values[i - 1] + share * (values[i] - values[i - 1])
    raise ValueError(f"no point at a KL of {kl:g}")


# ----------------------------------------------------------------------------------------------------------------------- forms


class Fit(NamedTuple):
    """``R(d) = offset + d (alpha - beta f(d))`` with d the root of the KL, and the share of the variance that it explains."""

    alpha: float
    beta: float
    offset: float
    r2: float


def fit_form(kls: Sequence[float], values: Sequence[float], form: str) -> Fit | None:
    """Least squares of the forms of Gao et al. 2022 (arXiv:2210.10760, eq. 1): f(d) = d for best of n (``form="bon"``), log d for RL
    (``form="rl"``). None where fewer than four points have a KL above 0."""
    used = [(math.sqrt(kl), value) for kl, value in zip(kls, values, strict=True) if kl > 1e-6]
    if len(used) < 4:
        return None
    d, y = (np.array(column) for column in zip(*used))
    inner = d if form == "bon" else np.log(d)
    design = np.stack([d, -d * inner, np.ones_like(d)], 1)
    (alpha, beta, offset), *_ = np.linalg.lstsq(design, y, rcond=None)
    left, total = float(((y - design @ [alpha, beta, offset]) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return Fit(float(alpha), float(beta), float(offset), 1.0 - left / total if total else 1.0)


# ----------------------------------------------------------------------------------------------------------------------- front


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (KL, reward) no other point beats: less KL with at least the reward, or more reward with at most the KL."""

    def beaten(a: tuple[float, float], by: tuple[float, float]) -> bool:
        return by[0] <= a[0] and by[1] >= a[1] and by != a

    return [not any(beaten(p, other) for other in points) for p in points]


def envelope(points: Sequence[tuple[float, float]], kl: float) -> float:
    """The best reward among points (KL, reward) of at most a KL. Raises ValueError where all cost more."""
    affordable = [reward for cost, reward in points if cost <= kl]
    if not affordable:
        raise ValueError(f"no point at a KL of {kl:g} or less")
    return max(affordable)


def area(points: Sequence[tuple[float, float]], kl: float) -> float:
    """The area below ``envelope`` from 0 to ``kl``; a point that costs less than a thousandth, as the estimate of
    nothing may, costs nothing."""
    steps = [cost if cost > 1e-3 else 0.0 for cost, _ in points]
    bounds = sorted({0.0, kl, *(cost for cost in steps if cost < kl)})
    moved = [(cost, reward) for cost, (_, reward) in zip(steps, points, strict=True)]
    return math.fsum((high - low) * envelope(moved, low) for low, high in pairwise(bounds))
