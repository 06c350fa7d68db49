"""A win rate with the effect of length taken out: what it would be if both answers were equally long.

The minimal form of Dubois et al. 2024 (arXiv 2404.04475, equation 2): a logistic regression of the win share on the difference of lengths,
squashed by tanh, and a constant. Nothing comes from other data: no published difficulty, no published coefficient. A judge that a constant
answer games is not mended by it, and constant answers are told (`constant_share`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate.statistics.intervals import LEVEL, Interval, check_level, clustered, share_interval

CONSTANT = 0.5  # share of prompts with one and the same answer from which on a model is told to be constant
_RIDGE = 1e-6  # keeps the coefficients finite where the shares are separated


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """The win rate at equal lengths, the raw one, and ``slope``: how the log-odds move from answers of equal length to much longer ones.
    ``explained``: length alone explains the win, for the raw interval lies above one half and the controlled one does not."""

    win_rate: Interval
    raw: Interval
    slope: float
    explained: bool


def length_controlled(
    shares: Mapping[str, float],
    lengths: Mapping[str, float],
    *,
    difficulty: Mapping[str, float] | None = None,
    draws: int = 1_000,
    level: float = LEVEL,
    seed: int = 0,
) -> LengthControlled:
    """The length-controlled win rate by prompt.

    ``shares[prompt]`` is the model's win share, ``lengths[prompt]`` its mean length less the baseline's, ``difficulty[prompt]``
    (optional) a
    log-odds of this data set's own (`own_difficulty`). The interval refits the regression on resampled prompts; the spread of fitted values
    at the estimate is much too small. Raises ValueError where shares and lengths have no prompt in common.
    """
    check_level(level)
    names = sorted(shares.keys() & lengths.keys() & (difficulty.keys() if difficulty is not None else shares.keys()))
    if not names:
        raise ValueError(f"no prompt has a win share and a length: {len(shares)} shares, {len(lengths)} lengths, none of the same prompt")
    y_n = np.array([shares[name] for name in names], dtype=np.float64)
    gap_n = np.array([lengths[name] for name in names], dtype=np.float64)
    raw = share_interval(clustered(y_n.tolist()), level)
    if np.ptp(gap_n) == 0 and gap_n[0] == 0:  # equally long everywhere: nothing to take out
        return LengthControlled(raw, raw, 0.0, False)
    if y_n.min() == y_n.max():  # no length explains what is the same everywhere
        return LengthControlled(raw, raw, 0.0, False)
    spread = float(gap_n.std()) or abs(float(gap_n[0]))
    hard_n = np.zeros(len(names)) if difficulty is None else np.array([difficulty[name] for name in names])
    columns = [np.ones(len(names)), np.tanh(gap_n / spread)] + ([hard_n] if difficulty is not None else [])
    x_nK = np.stack(columns, axis=1)
    whole = np.ones((1, len(names)))
    coefficients = _fit(x_nK, y_n, whole)
    at_n = x_nK.copy()
    at_n[:, 1] = 0.0
    estimate = float(_predicted(at_n, coefficients, whole)[0])
    weights = _weights(len(names), draws, seed)
    drawn = _predicted(at_n, _fit(x_nK, y_n, weights), weights)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    found = Interval(estimate, min(float(low), estimate), max(float(high), estimate), len(names))
    return LengthControlled(found, raw, float(coefficients[0, 1]), raw.low > 0.5 >= found.low)


def own_difficulty(shares: Mapping[str, Mapping[str, float]], model: str) -> dict[str, float]:
    """How hard to win each prompt is, from the other models' shares on it: the log-odds of their mean share, drawn half a win towards one
    half, less its mean over prompts. ``shares[model][prompt]``. {} where there is no other model."""
    others = [s for name, s in shares.items() if name != model]
    found = {p: [s[p] for s in others if p in s] for p in shares.get(model, {})}
    odds = {p: _logit((sum(v) + 0.5) / (len(v) + 1)) for p, v in found.items() if v}
    centre = math.fsum(odds.values()) / len(odds) if odds else 0.0
    return {p: value - centre for p, value in odds.items()}


def constant_share(texts: Sequence[str]) -> float:
    """Share of answers (one a prompt) that are one and the same text; 0 where there are fewer than two."""
    said = [" ".join(text.split()).lower() for text in texts]
    return Counter(said).most_common(1)[0][1] / len(said) if len(said) > 1 else 0.0


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _weights(n: int, draws: int, seed: int) -> np.ndarray:
    """How often each prompt is drawn. [draws, n]"""
    keys = np.array([stable_hash("length control", seed, draw) for draw in range(draws)], dtype=np.uint64)
    counts = np.zeros((draws, n))
    rows = np.arange(draws)
    for position in range(n):
        counts[rows, np.minimum((uniform(keys, position) * n).astype(np.int64), n - 1)] += 1
    return counts


def _fit(x_nK: np.ndarray, y_n: np.ndarray, weights_Dn: np.ndarray) -> np.ndarray:
    """Logistic regression with fractional outcomes, one for each row of weights, by damped Newton steps. [D, K]"""
    k = x_nK.shape[1]
    b_DK = np.zeros((len(weights_Dn), k))
    outer = x_nK[:, :, None] * x_nK[:, None, :]
    for _ in range(100):
        p = _sigmoid(b_DK @ x_nK.T)
        gradient = (weights_Dn * (y_n - p)) @ x_nK - _RIDGE * b_DK
        hessian = np.tensordot(weights_Dn * p * (1 - p), outer, axes=1) + _RIDGE * np.eye(k)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        step /= np.maximum(1.0, np.abs(step).max(1, keepdims=True) / 2)  # at most 2 a coefficient: Newton alone may overshoot
        b_DK += step
        if np.abs(step).max() < 1e-9:
            break
    return b_DK


def _predicted(at_nK: np.ndarray, b_DK: np.ndarray, weights_Dn: np.ndarray) -> np.ndarray:
    return (weights_Dn * _sigmoid(b_DK @ at_nK.T)).sum(1) / weights_Dn.sum(1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))
