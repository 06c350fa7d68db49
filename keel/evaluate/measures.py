"""Measures of texts, of a reward model and of a language model: pure functions of plain numbers and strings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from keel.evaluate.statistics import DRAWS, LEVEL, Interval, cluster_bootstrap, wilson

# Scripts written without spaces count by character: Han (with extension A and compatibility forms), Hiragana, Katakana.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:['’][^\W_{_UNSPACED}]+)*")

# --------------------------------------------------------------------------------------------------------------------------------
# Texts
# --------------------------------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Lower-case words; in Chinese and Japanese each character is one. Punctuation is left out."""
    return _WORD.findall(text.lower())


def _ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams / all n-grams over a set of answers (Li et al. 2016, arXiv 1510.03055). None without any n-gram.

    The value falls as the set grows: only sets of the same number of answers can be compared.
    """
    grams = [gram for text in texts for gram in _ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that were there before in the same text: 0 for a text that never repeats itself."""
    grams = _ngrams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Summary of a set of numbers."""

    mean: float
    std: float  # population
    min: float
    median: float
    max: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """A plain dict of the fields."""
        return asdict(self)


def describe(values: Sequence[float]) -> Distribution | None:
    """Mean, spread and extremes of the finite values; None when there are none."""
    array = np.asarray([v for v in values if math.isfinite(v)], dtype=np.float64)
    if not len(array):
        return None
    return Distribution(*(float(f(array)) for f in (np.mean, np.std, np.min, np.median, np.max)), n=len(array))


# --------------------------------------------------------------------------------------------------------------------------------
# Reward models: margins are score(chosen) - score(rejected), labels are P(chosen is better)
# --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions with a confidence in (low, high]: what was claimed, what came true."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """``ece`` is the mean gap between confidence and accuracy, weighted by bin size. Empty bins are not listed."""

    ece: float
    bins: tuple[ReliabilityBin, ...]
    n: int

    def to_json(self) -> dict[str, object]:
        """``{"ece", "n", "bins": [{"low", "high", "confidence", "accuracy", "n"}]}``."""
        return {"ece": self.ece, "n": self.n, "bins": [asdict(b) for b in self.bins]}


def calibration(confidences: Sequence[float], outcomes: Sequence[float], *, bins: int = 10, low: float = 0.0) -> Calibration:
    """Expected calibration error over equal-width bins of [low, 1] (Guo et al. 2017, arXiv 1706.04599, equation 3).

    ``outcomes`` are 0 or 1, or soft labels between. Raises ValueError on no data, unequal lengths or values out of range.
    """
    p, y = np.asarray(confidences, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if p.shape != y.shape or not len(p):
        raise ValueError(f"calibration needs as many outcomes as confidences, and at least one: {len(p)} and {len(y)}")
    if not (np.all((p >= low) & (p <= 1)) and np.all((y >= 0) & (y <= 1))):
        raise ValueError(f"confidences must lie in [{low}, 1] and outcomes in [0, 1]")
    width = (1 - low) / bins
    index = np.clip(np.ceil((p - low) / width).astype(int) - 1, 0, bins - 1)
    rows, ece = [], 0.0
    for i in range(bins):
        inside = index == i
        count = int(inside.sum())
        if count:
            confidence, accuracy = float(p[inside].mean()), float(y[inside].mean())
            rows.append(ReliabilityBin(low + i * width, low + (i + 1) * width, confidence, accuracy, count))
            ece += count / len(p) * abs(confidence - accuracy)
    return Calibration(ece, tuple(rows), len(p))


def pair_probabilities(margins: Sequence[float], temperature: float = 1.0) -> np.ndarray:
    """P(chosen is better) under Bradley-Terry: sigmoid(margin / temperature). float64 [n]."""
    return _sigmoid(np.asarray(margins, dtype=np.float64) / temperature)


def pair_calibration(
    margins: Sequence[float], labels: Sequence[float] | None = None, *, bins: int = 5, temperature: float = 1.0
) -> Calibration:
    """Calibration of a reward model's pair probabilities, folded to the answer it prefers: confidence max(p, 1 - p) in [0.5, 1].

    Unfolded, pairs written as (chosen, rejected) have the outcome 1 everywhere and say nothing about calibration below one half.
    """
    p = pair_probabilities(margins, temperature)
    y = np.ones_like(p) if labels is None else np.asarray(labels, dtype=np.float64)
    outcomes = np.where(p > 0.5, y, np.where(p < 0.5, 1 - y, 0.5))
    return calibration(np.maximum(p, 1 - p).tolist(), outcomes.tolist(), bins=bins, low=0.5)


def pair_accuracy(
    margins: Sequence[float],
    labels: Sequence[float] | None = None,
    prompt_ids: Sequence[str] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Share of pairs that the reward model orders as people did; equal scores count half, pairs that people called a tie are left out.

    With ``prompt_ids`` the interval is clustered by prompt (pairs of one prompt share answers) and ``n`` counts prompts; otherwise it is
    Wilson's and ``n`` counts pairs.
    """
    y = [1.0] * len(margins) if labels is None else list(labels)
    keys = [str(i) for i in range(len(margins))] if prompt_ids is None else list(prompt_ids)
    if not len(y) == len(keys) == len(margins):
        raise ValueError(f"{len(margins)} margins, {len(y)} labels, {len(keys)} prompt ids")
    hits: dict[str, list[float]] = {}
    for margin, label, key in zip(margins, y, keys):
        if label != 0.5:
            signed = margin if label > 0.5 else -margin
            hits.setdefault(key, []).append(1.0 if signed > 0 else 0.5 if signed == 0 else 0.0)
    flat = [hit for cluster in hits.values() for hit in cluster]
    if prompt_ids is None:
        return wilson(math.fsum(flat), len(flat), level=level)
    if flat and min(flat) == max(flat):  # no spread to resample
        return wilson(flat[0] * len(hits), len(hits), level=level)
    clusters = [hits[key] for key in sorted(hits)]
    return cluster_bootstrap([math.fsum(c) for c in clusters], [float(len(c)) for c in clusters], draws=draws, level=level, seed=seed)


def fit_temperature(margins: Sequence[float], labels: Sequence[float] | None = None, *, low: float = 0.01, high: float = 100.0) -> float:
    """Temperature T that minimises the negative log-likelihood of sigmoid(margin / T); convex in 1/T, found by bisection.

    Ends at ``low`` when the margins separate the labels (more confidence always pays) and at ``high`` when they say nothing.
    """
    m = np.asarray(margins, dtype=np.float64)
    y = np.ones_like(m) if labels is None else np.asarray(labels, dtype=np.float64)
    if m.shape != y.shape or not len(m):
        raise ValueError(f"{len(m)} margins and {len(y)} labels")

    def slope(inverse: float) -> float:  # derivative of the loss by 1/T, rising
        return float(((_sigmoid(inverse * m) - y) * m).sum())

    left, right = 1 / high, 1 / low
    if slope(left) >= 0:
        return high
    if slope(right) <= 0:
        return low
    for _ in range(100):
        middle = (left + right) / 2
        left, right = (middle, right) if slope(middle) < 0 else (left, middle)
    return 2 / (left + right)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


# --------------------------------------------------------------------------------------------------------------------------------
# Language models
# --------------------------------------------------------------------------------------------------------------------------------


def perplexity(logprob_sum: float, n_tokens: int) -> float:
    """exp(-sum of log-probabilities / tokens); sums over texts are added before, so long texts weigh more."""
    if n_tokens < 1:
        raise ValueError("perplexity needs at least one predicted token")
    return math.exp(-logprob_sum / n_tokens)


@dataclass(frozen=True, slots=True)
class Retention:
    """General ability before and after: perplexity on text that has nothing to do with the training. A ratio of 1 is nothing lost."""

    perplexity_before: float
    perplexity_after: float
    ratio: float
    n_tokens: int

    def to_json(self) -> dict[str, float | int]:
        """A plain dict of the fields."""
        return asdict(self)


def retention(before_sum: float, after_sum: float, n_tokens: int) -> Retention:
    """Retention from the two log-probability sums over the same ``n_tokens`` tokens."""
    before, after = perplexity(before_sum, n_tokens), perplexity(after_sum, n_tokens)
    return Retention(before, after, after / before, n_tokens)
