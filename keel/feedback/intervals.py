"""Agreement with intervals: coefficients of `Votes`, resampled by item (and by annotator), per person against all others, and a verdict.

Labels of one item hang together, so items are resampled as wholes. The coefficients are computed from count tables, so that a thousand
resamples are one pass; `keel.feedback.agreement` has their plain forms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keel.feedback.reliability.majority import vote_counts
from keel.feedback.reliability.votes import Floats, Ints, Votes

GOOD, FAIR = 0.6, 0.4
Level = Literal["nominal", "ordinal"]
Coefficient = Literal["raw", "fleiss", "alpha", "alpha_ordinal"]
COEFFICIENTS: tuple[Coefficient, ...] = ("raw", "fleiss", "alpha", "alpha_ordinal")
Verdict = Literal["good", "fair", "poor", "not known"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A coefficient with its percentile interval. ``verdict``: good above 0.6, fair above 0.4, else poor, of the value itself;
    ``sure`` says that the whole interval lies in that band. Of ``n`` items with two labels or more."""

    value: float
    low: float
    high: float
    n: int
    verdict: Verdict
    sure: bool


def verdict(value: float) -> Verdict:
    """The band of a kappa or alpha."""
    if math.isnan(value):
        return "not known"
    return "good" if value > GOOD else "fair" if value > FAIR else "poor"


def agreement_intervals(
    votes: Votes, *, people: bool = False, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[Coefficient, Estimate]:
    """Raw agreement, Fleiss' kappa and Krippendorff's alpha (nominal, and ordinal in the order second < tie < first). Repeats are left
    out. ``people``: annotators are resampled too (a person drawn twice counts twice), for the question of other people, not only of other
    items. Raises ValueError for fewer than 100 draws."""
    if draws < 100:
        raise ValueError(f"an interval needs at least 100 draws, not {draws}")
    first, rng = votes.first_votes(), np.random.default_rng(seed)
    counts_TK = ordered_counts(first)
    used_TK = counts_TK[counts_TK.sum(1) > 1]
    values = {c: coefficient(c, used_TK[None], np.ones((1, len(used_TK))))[0] for c in COEFFICIENTS}
    drawn: dict[Coefficient, list[Floats]] = {c: [] for c in COEFFICIENTS}
    for _ in range(math.ceil(draws / 100)):
        pairs = [_of_people(first, rng) for _ in range(100)] if people else [(used_TK, used_TK)]
        tables_DTK, squares_DTK = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
        T = tables_DTK.shape[1]
        weight_DT = rng.multinomial(T, np.full(T, 1 / T), 100).astype(np.float64) if T else np.ones((100, 0))
        for c in COEFFICIENTS:
            drawn[c].append(coefficient(c, tables_DTK, weight_DT, squares_DTK))
    return {c: _estimate(values[c], np.concatenate(drawn[c]), len(used_TK), level) for c in COEFFICIENTS}


def _of_people(first: Votes, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Counts by task, and sums of squares, of annotators drawn with replacement: one drawn twice weighs two, and is not compared with
    themselves."""
    A = len(first.annotators)
    drawn_A = np.bincount(rng.integers(0, A, A), minlength=A).astype(np.float64)
    return ordered_counts(first, drawn_A), ordered_counts(first, drawn_A**2)


def ordered_counts(votes: Votes, weight_A: Floats | None = None) -> Floats:
    """Counts [T, K] (sums of the annotators' weights), in the order second < tie < first, or as the classes stand."""
    counts_TK = vote_counts(votes, weight_A)
    wanted = ("second", "tie", "first")
    if set(wanted) <= set(votes.classes):
        rest = [c for c in votes.classes if c not in wanted]
        return counts_TK[:, [votes.classes.index(c) for c in (*rest, *wanted)]]
    return counts_TK


def coefficient(name: Coefficient, counts_DTK: Floats, weight_DT: Floats, squares_DTK: Floats | None = None) -> Floats:
    """The coefficient of D weighted tables, float [D]; ``counts_DTK`` may have D = 1 for all. Where people weigh other than 1,
    ``squares_DTK`` has the sums of their squared weights, which takes pairs of a person with themselves out. Items of fewer than two
    people count nothing; NaN where no disagreement could be expected."""
    squares_DTK = counts_DTK if squares_DTK is None else squares_DTK
    n_DT, own_DT = counts_DTK.sum(2), squares_DTK.sum(2)
    pairs_DT = n_DT**2 - own_DT  # ordered pairs of different people
    weight_DT = weight_DT * (pairs_DT > 0)
    same_DT = (counts_DTK**2 - squares_DTK).sum(2) / np.where(pairs_DT > 0, pairs_DT, 1.0)
    items_D = weight_DT.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        raw_D = (weight_DT * same_DT).sum(1) / items_D
        if name == "raw":
            return raw_D
        total_DK = np.einsum("dt,dtk->dk", weight_DT, np.broadcast_to(counts_DTK, (len(weight_DT), *counts_DTK.shape[1:])))
        n_D = total_DK.sum(1)
        if name == "fleiss":
            expected_D = ((total_DK / n_D[:, None]) ** 2).sum(1)
            return np.where(expected_D < 1 - 1e-12, (raw_D - expected_D) / (1 - expected_D), math.nan)
        cost_DKK = _costs(total_DK, "ordinal" if name == "alpha_ordinal" else "nominal")
        of_others_DT = np.where(pairs_DT > 0, pairs_DT / np.maximum(n_DT, 1e-300), 1.0)  # n - 1 where each weighs 1
        spread_DTK = counts_DTK / of_others_DT[..., None] * weight_DT[..., None]
        observed_D = np.einsum("dtk,dtl,dkl->d", spread_DTK, np.broadcast_to(counts_DTK, spread_DTK.shape), cost_DKK, optimize=True)
        expected_D = np.einsum("dk,dl,dkl->d", total_DK, total_DK, cost_DKK) / (n_D - 1)
        return np.where(expected_D > 0, 1 - observed_D / expected_D, math.nan)


def _costs(total_DK: Floats, level: Level) -> Floats:
    K = total_DK.shape[1]
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(K), (len(total_DK), K, K))
    upto_DK = np.cumsum(total_DK, axis=1)
    middle_DK = upto_DK - total_DK / 2.0  # the distance of two ranks is that of the middles of their labels
    return (middle_DK[:, :, None] - middle_DK[:, None, :]) ** 2


def _estimate(value: float, drawn: Floats, n: int, level: float) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (math.nan, math.nan)
    band = verdict(float(value))
    return Estimate(
        float(value), float(low), float(high), n, band, band != "not known" and verdict(float(low)) == band == verdict(float(high))
    )


def against_others(votes: Votes, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """Each person against the most voted class of all others (leave one out; items on which the others are even are left out): Cohen's
    kappa with an interval over items. The people's own number to hold a judge model against."""
    first, rng = votes.first_votes(), np.random.default_rng(seed)
    counts_TK, K = vote_counts(first), len(votes.classes)
    found: dict[str, Estimate] = {}
    for a, name in enumerate(votes.annotators):
        at = np.flatnonzero(first.annotator_V == a)
        others_NK = counts_TK[first.task_V[at]] - np.eye(K)[first.label_V[at]]
        top_N = others_NK.max(1) if len(at) else np.zeros(0)
        clear_N = (top_N > 0) & ((others_NK == top_N[:, None]).sum(1) == 1)
        pair_N = first.label_V[at][clear_N] * K + others_NK[clear_N].argmax(1)
        tables = np.bincount(pair_N, minlength=K * K)[None].astype(np.float64)
        n = len(pair_N)
        drawn = rng.multinomial(n, tables[0] / n, draws).astype(np.float64) if n else np.full((1, K * K), math.nan)
        value = float(kappa_of_tables(tables.reshape(-1, K, K))[0]) if n else math.nan
        found[name] = _estimate(value, kappa_of_tables(drawn.reshape(-1, K, K)), n, level)
    return found


def cohen_intervals(
    votes: Votes, pairs: Sequence[tuple[str, str]], *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """Cohen's kappa of two people on their common items, for the pairs that are asked for: with many people not all are wanted. Raises
    KeyError for a name that no vote has."""
    first, rng, K = votes.first_votes(), np.random.default_rng(seed), len(votes.classes)
    place = {name: i for i, name in enumerate(votes.annotators)}
    by: dict[int, dict[int, int]] = {a: {} for a in place.values()}
    for t, a, k in zip(first.task_V.tolist(), first.annotator_V.tolist(), first.label_V.tolist()):
        by[a][t] = k
    found: dict[tuple[str, str], Estimate] = {}
    for a, b in pairs:
        one, two = by[place[a]], by[place[b]]
        pair_N: Ints = np.array([one[t] * K + two[t] for t in one if t in two], np.int64)
        n = len(pair_N)
        table = np.bincount(pair_N, minlength=K * K).astype(np.float64)
        drawn = rng.multinomial(n, table / n, draws).astype(np.float64) if n else np.full((1, K * K), math.nan)
        found[a, b] = _estimate(float(kappa_of_tables(table.reshape(1, K, K))[0]), kappa_of_tables(drawn.reshape(-1, K, K)), n, level)
    return found


def kappa_of_tables(tables_DKK: Floats) -> Floats:
    """Cohen's kappa of each table of two people's labels, [D]; NaN where no disagreement could be expected."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p_DKK = tables_DKK / tables_DKK.sum((1, 2), keepdims=True)
        observed_D = np.trace(p_DKK, axis1=1, axis2=2)
        expected_D = (p_DKK.sum(2) * p_DKK.sum(1)).sum(1)
        return np.where(expected_D < 1 - 1e-12, (observed_D - expected_D) / (1 - expected_D), math.nan)
