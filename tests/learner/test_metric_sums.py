"""Metrics of micro-batches as one, by hand: means over what was counted, extremes, effective sample sizes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from keel.learner.inference import MetricSums


def report(*parts: Mapping[str, tuple[float, float]]) -> Mapping[str, float]:
    sums = MetricSums()
    for part in parts:
        sums.add(part)
    return {name: value for name, value in sums.report().metrics.items() if name != "loss"}


def test_a_mean_is_over_what_was_counted_and_not_over_parts() -> None:
    """One token of 8 nats and three of 4 in all: 12 / 4, where the mean of means would be (8 + 4 / 3) / 2."""
    assert report({"nll": (8.0, 1.0)}, {"nll": (4.0, 3.0)}) == {"nll": 3.0}


def test_what_nobody_counted_is_not_told() -> None:
    assert report({"accuracy": (0.0, 0.0)}) == {}
    assert report({"accuracy": (0.0, 0.0)}, {"accuracy": (1.0, 2.0)}) == {"accuracy": 0.5}


@pytest.mark.parametrize(("values", "least", "greatest"), [((3.0, 5.0), 3.0, 5.0), ((-3.0, -5.0), -5.0, -3.0), ((2.0,), 2.0, 2.0)])
def test_extremes_are_of_the_values_alone(values: tuple[float, ...], least: float, greatest: float) -> None:
    """A 0 that nobody said is neither the least of positive numbers nor the greatest of negative ones."""
    assert report(*({"ratio/min": (v, 1.0), "ratio/max": (v, 1.0)} for v in values)) == {"ratio/min": least, "ratio/max": greatest}


def test_an_effective_sample_size_is_of_all_weights() -> None:
    """Weights 1, 1 and 2 in two parts: (1 + 1 + 2)^2 / (1 + 1 + 4)."""
    assert report({"weights/ess": (2.0, 2.0)}, {"weights/ess": (2.0, 4.0)}) == {"weights/ess": pytest.approx(16 / 6)}
