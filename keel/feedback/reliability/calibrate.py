"""Posteriors that mean what they say: a model's confidence is tempered and mixed with the vote share as gold tasks advise.

Models of annotators take votes as independent given the truth. Votes on a hard task are wrong together, so posteriors are too sure
(docs/feedback_quality.md has numbers), and a soft label that is too sure teaches a reward model noise. Where there is too little gold to
fit anything the soft label is the smoothed vote share, which has no such fault; where there is none it is a fixed mix of both (`guarded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keel.feedback.reliability.votes import Floats, Ints

TEMPERATURES = (1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0, 11.3, 16.0)
MIXES = tuple(i / 10 for i in range(11))
MASS = 0.2  # made-up votes a task, over all classes together
GUARD = 0.6
PRIOR_GOLD = 5.0  # the vote share starts with the lead of so many gold tasks' average gain
FEWEST_GOLD = 20
FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """soft = share of ``mix`` from the vote share, the rest from the posterior at ``temperature``. ``gold`` tasks were used; with fewer
    than `FEWEST_GOLD` nothing is fitted and the vote share is the label (``mix`` 1)."""

    temperature: float
    mix: float
    gold: int
    log_loss: float  # on the gold tasks themselves, after fitting; NaN without
    log_loss_share: float

    def apply(self, posterior_TK: Floats, share_TK: Floats) -> Floats:
        """Soft labels [T, K] from posteriors and (smoothed) vote shares of the same tasks."""
        return self.mix * share_TK + (1.0 - self.mix) * tempered(posterior_TK, self.temperature)


def guarded(posterior_TK: Floats, share_TK: Floats) -> Floats:
    """The vote share (`GUARD`) and the posterior (the rest): the class and label where no gold is known. A sure posterior overturns votes
    of less than 5 to 1, never more: overturns of near-unanimous votes are wrong more often than right on public crowds."""
    return GUARD * share_TK + (1.0 - GUARD) * posterior_TK


def tempered(posterior_TK: Floats, temperature: float) -> Floats:
    """p^(1/temperature), normalised; probabilities below 1e-6 count as that, so that sure and wrong is not endlessly wrong."""
    if temperature <= 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    logs_TK = np.log(np.maximum(posterior_TK, FLOOR)) / temperature
    exp_TK = np.exp(logs_TK - logs_TK.max(1, keepdims=True))
    return exp_TK / exp_TK.sum(1, keepdims=True)


def fit(posterior_TK: Floats, share_TK: Floats, gold: Mapping[int, int], fewest: int = FEWEST_GOLD) -> Calibration:
    """The temperature and mix of least log-loss on the gold tasks (task -> class), over a grid: 9 temperatures by 11 mixes.

    A small charge for leaving the vote share (the mean gain has to beat it, `PRIOR_GOLD`) keeps few gold tasks from choosing by luck.
    """
    no_gold = Calibration(1.0, 1.0, len(gold), float("nan"), float("nan"))
    if len(gold) < fewest:
        return no_gold
    task_G, class_G = np.array(list(gold), np.int64), np.array(list(gold.values()), np.int64)
    share_G = share_TK[task_G, class_G]
    losses = [
        (log_loss_of(m * share_G + (1.0 - m) * tempered(posterior_TK[task_G], t)[np.arange(len(task_G)), class_G]), t, m)
        for t in TEMPERATURES
        for m in MIXES
    ]
    plain = log_loss_of(share_G)
    loss, temperature, mix = min(losses, key=lambda x: (x[0] + PRIOR_GOLD / len(gold) * _unlike(x[1], x[2]), x[1], x[2]))
    return Calibration(temperature, mix, len(gold), loss, plain)


def _unlike(temperature: float, mix: float) -> float:
    """How far settings are from the vote share, 0 to 1; the hotter, the less a posterior claims."""
    return 0.1 * (1.0 - mix) / temperature


def log_loss_of(p_G: Floats) -> float:
    """Mean -log of the probabilities that the right classes got, each at least 1e-6."""
    return float(-np.log(np.maximum(p_G, FLOOR)).mean())


def scores(soft_TK: Floats, task_G: Ints, class_G: Ints) -> dict[str, float]:
    """``accuracy`` (a tie of k likeliest classes counts 1 / k where the right one is among them), ``brier`` (summed over classes, 0 to 2)
    and ``log_loss`` on tasks with known classes."""
    p_GK = soft_TK[task_G]
    rows_G = np.arange(len(task_G))
    top_GK = p_GK >= p_GK.max(1, keepdims=True) - 1e-12
    right_GK = np.eye(p_GK.shape[1])[class_G]
    return {
        "accuracy": float((top_GK[rows_G, class_G] / top_GK.sum(1)).mean()),
        "brier": float(((p_GK - right_GK) ** 2).sum(1).mean()),
        "log_loss": log_loss_of(p_GK[rows_G, class_G]),
    }
