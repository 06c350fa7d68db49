"""How a KL coefficient follows the KL that was measured. Pure functions of numbers; the state is the coefficient alone.

``target`` and ``kl`` are in the same unit, whichever that is.
"""

from __future__ import annotations

SWING = 1.5  # how far from the target, as a factor, before a step-wise controller moves


def proportional(coef: float, kl: float, target: float, samples: int, horizon: float, floor: float) -> float:
    """``beta (1 + clip(kl / target - 1, -0.2, 0.2) * samples / horizon)``, never below ``floor`` (Ziegler et al. 2019, arXiv:1909.08593,
    section 2.2; ``horizon`` as in their code: the samples over which a full error moves the coefficient by a fifth).

    Args:
        coef: beta so far.
        kl: measured on this step's samples.
        target: what it should be.
        samples: how many samples that were.
        horizon: in samples.
        floor: so that a coefficient that only falls can rise again.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return max(floor, coef * (1.0 + error * samples / horizon))


def multiplicative(coef: float, kl: float, target: float, low: float, high: float) -> float:
    """1.5 times as much above 1.5 times the target, 0.75 times below half of it, unchanged in between; always within [low, high]."""
    if kl > SWING * target:
        coef *= 1.5
    elif kl < 0.5 * target:
        coef *= 0.75
    return min(max(coef, low), high)


def stepped(coef: float, measured: float, target: float, step: float, high: float) -> float:
    """``step`` more below the target, ``step`` less above it, always within [0, high]: an entropy bonus that is there as long as it is
    needed (after He et al. 2025, arXiv:2505.22312, whose steps are 0.005)."""
    return min(max(coef + (step if measured < target else -step), 0.0), high)


def scheduled(start: float, end: float, progress: float) -> float:
    """A straight line from ``start`` to ``end``; ``progress`` from 0 (first step) to 1 (last)."""
    return start + (end - start) * progress


def doubled_or_halved(coef: float, kl: float, target: float) -> float:
    """Twice as much above 1.5 times the target, half below 1 / 1.5 of it (Schulman et al. 2017, arXiv:1707.06347, section 4)."""
    if kl > SWING * target:
        return coef * 2.0
    return coef / 2.0 if kl < target / SWING else coef
