"""Whitening over a batch, with statistics that can be added up over its parts (processes, micro-batches)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the numbers seen. ``a + b`` are the moments of both together.

    Deviations from the mean are kept rather than plain squares: of numbers near 1e8 that differ by 1 the squares would be told apart no
    longer, and the variance would be rounding (Chan, Golub and LeVeque 1983, eq. 2.1).
    """

    count: float = 0.0
    mean: float = 0.0
    deviations: float = 0.0  # sum of squares of (x - mean)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart, share = other.mean - self.mean, other.count / count
        deviations = self.deviations + other.deviations + apart**2 * self.count * share
        return Moments(count, self.mean + apart * share, deviations)

    @property
    def variance(self) -> float:
        """Of the population."""
        return self.deviations / self.count if self.count else 0.0

    @classmethod
    def of_state(cls, state: Mapping[str, float]) -> Moments:
        """From the fields, as a checkpoint has them; older ones have the sum ``total`` and the sum of ``squares``."""
        if "total" not in state:
            return cls(**state)
        count, total = state["count"], state["total"]
        return cls(count, total / count, max(state["squares"] - total**2 / count, 0.0)) if count else cls()


def moments(values_S: Tensor) -> Moments:
    """Of a vector, in float64."""
    assert values_S.dim() == 1, "values are a vector"
    if not len(values_S):
        return Moments()
    exact_S = values_S.double()
    mean = exact_S.mean()
    return Moments(float(len(exact_S)), float(mean), float((exact_S - mean).square().sum()))


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
