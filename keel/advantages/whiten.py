"""Whitening over a batch, with the statistics as sums, so that parts of a batch (processes, micro-batches) can be added up first."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the numbers seen. ``a + b`` are the moments of both together."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Of the population; never below 0 by rounding."""
        return max(self.squares / self.count - self.mean**2, 0.0) if self.count else 0.0


def moments(values_S: Tensor) -> Moments:
    """Count, sum and sum of squares of a vector, in float64."""
    assert values_S.dim() == 1, "values are a vector"
    exact_S = values_S.double()
    return Moments(float(len(exact_S)), float(exact_S.sum()), float(exact_S.square().sum()))


def whiten(values_S: Tensor, over: Moments, eps: float = 1e-8) -> Tensor:
    """``(x - mean) / sqrt(variance + eps)`` with the moments of the whole batch (Ziegler et al. 2019, arXiv:1909.08593, section 2.1).

    Args:
        values_S: float [S], this part's numbers.
        over: moments of all numbers that are whitened together.
        eps: added to the variance: equal numbers give 0.

    Returns:
        float [S] in the input's dtype.
    """
    assert values_S.is_floating_point(), f"values are floating point, not {values_S.dtype}"
    return ((values_S.double() - over.mean) / (over.variance + eps) ** 0.5).to(values_S.dtype)
