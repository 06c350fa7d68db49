"""Bradley-Terry ratings of many models from comparisons of two at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate.statistics.intervals import LEVEL, Interval, check_level

Wins = Mapping[tuple[str, str], float]  # (model, other) -> share of wins of the first over the second; a tie is half a win of each

ELO = 400 / math.log(10)  # points of Elo's scale in one unit of log-strength
ELO_MEAN = 1000.0


@dataclass(frozen=True, slots=True)
class Ratings:
    """Strengths on Elo's scale (a lead of 400 points is odds of 10 to 1; the mean of all is 1000), with intervals over prompts.

    ``unbounded`` names models that won, or lost, everything against the rest: their rating has no finite value, and they stand in no table.
    """

    elo: Mapping[str, Interval]
    unbounded: tuple[str, ...] = ()


def bradley_terry(wins: np.ndarray, *, tolerance: float = 1e-10, limit: int = 200) -> np.ndarray:
    """Log-strengths, mean 0, that maximise the likelihood ``P(i beats j) = p_i / (p_i + p_j)`` (Bradley & Terry 1952). float64 [..., M].

    ``wins[..., i, j]`` is how often i beat j, ties half on both sides. Newton's method: the log-likelihood is concave in the
    log-strengths, and has one maximum where the models hang together (`connected`).
    """
    wins = np.asarray(wins, dtype=np.float64)
    both, m = wins + wins.swapaxes(-1, -2), wins.shape[-1]
    log_p = np.zeros(wins.shape[:-1])
    for _ in range(limit):
        chance = 1 / (1 + np.exp(log_p[..., None, :] - log_p[..., :, None]))
        gradient = (wins - both * chance).sum(-1)
        curvature = both * chance * (1 - chance)
        curvature = curvature * (1 - np.eye(m))
        hessian = curvature.sum(-1)[..., None] * np.eye(m) - curvature + np.ones((m, m)) / m  # ones: the mean stays 0
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step /= np.maximum(1.0, np.abs(step).max(-1, keepdims=True))  # at most 1: far from the maximum Newton overshoots
        log_p = log_p + step
        if np.abs(step).max() < tolerance:
            break
    return log_p - log_p.mean(-1, keepdims=True)


def connected(wins: np.ndarray) -> list[list[int]]:
    """Groups of models in which each can be reached from each by wins (strongly connected; Ford 1957); the largest first."""
    reach = np.asarray(wins) > 0
    m = len(reach)
    reach = reach | np.eye(m, dtype=bool)
    for k in range(m):
        reach |= reach[:, k : k + 1] & reach[k : k + 1, :]
    both = reach & reach.T
    groups = {tuple(np.flatnonzero(row).tolist()) for row in both}
    return sorted((list(g) for g in groups), key=lambda g: (-len(g), g))


def ratings(by_prompt: Mapping[str, Wins], *, draws: int = 1_000, level: float = LEVEL, seed: int = 0) -> Ratings:
    """Ratings of all models from the wins on each prompt; the intervals refit the model on resampled prompts.

    Raises ValueError where nothing was compared. Models outside of the largest group that hangs together are named, not rated: their
    strengths against the group would be infinite. Resamples in which the group falls apart are left out.
    """
    check_level(level)
    names = sorted({name for wins in by_prompt.values() for pair in wins for name in pair})
    if not names:
        raise ValueError("no comparison to rate models by")
    place = {name: i for i, name in enumerate(names)}
    prompts = sorted(by_prompt)
    table = np.zeros((len(prompts), len(names), len(names)))
    for k, prompt in enumerate(prompts):
        for (a, b), share in by_prompt[prompt].items():
            table[k, place[a], place[b]] += share
    group = connected(table.sum(0))[0]
    kept = [names[i] for i in group]
    unbounded = tuple(name for name in names if name not in kept)
    if len(group) < 2:
        return Ratings({}, tuple(names))
    table = table[:, group][:, :, group]
    centre = ELO_MEAN + ELO * bradley_terry(table.sum(0))
    drawn = _resampled(table, draws, seed)
    whole = np.array([len(connected(w)[0]) == len(group) for w in drawn])
    found = ELO_MEAN + ELO * bradley_terry(drawn[whole], tolerance=1e-6) if whole.any() else np.repeat(centre[None], 2, 0)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if whole.mean() < 0.9:  # too few prompts to say how far it could go
        low, high = np.full_like(low, -math.inf), np.full_like(high, math.inf)
    n = len(prompts)
    elo = {name: Interval(float(c), float(min(a, c)), float(max(b, c)), n) for name, c, a, b in zip(kept, centre, low, high)}
    return Ratings(dict(sorted(elo.items(), key=lambda item: -item[1].mean)), unbounded)


def _resampled(table: np.ndarray, draws: int, seed: int) -> np.ndarray:
    n = len(table)
    keys = np.array([stable_hash("ratings", seed, draw) for draw in range(draws)], dtype=np.uint64)
    totals = np.zeros((draws, *table.shape[1:]))
    for position in range(n):
        totals += table[np.minimum((uniform(keys, position) * n).astype(np.int64), n - 1)]
    return totals


def all_pairs(scores: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], float]:
    """The wins on one prompt from all models' scores: every answer of one against every answer of another, as shares."""
    wins: dict[tuple[str, str], float] = {}
    names = sorted(name for name in scores if len(scores[name]))
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            share = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in scores[a] for y in scores[b]) / (len(scores[a]) * len(scores[b]))
            wins[a, b], wins[b, a] = share, 1 - share
    return wins
