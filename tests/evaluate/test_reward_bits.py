"""Accuracy lost by fewer bits, by hand."""

from __future__ import annotations

import pytest

from keel.evaluate.reward_bits import accuracy_loss
from keel.evaluate.reward_measures import ScoredLabel


def labels(*scores: tuple[float, float], label: float = 1.0) -> list[ScoredLabel]:
    return [ScoredLabel(str(i), s, ((0, 1, label),)) for i, s in enumerate(scores)]


def test_the_loss_by_hand() -> None:
    before = labels((2, 1), (2, 1), (1, 2), (3, 1))
    after = labels((2, 1), (1, 2), (1, 2), (1, 1))
    found = accuracy_loss(before, after)
    assert found is not None
    assert (found.before, found.after, found.turned, found.pairs) == (0.75, 0.375, 0.5, 4)
    assert found.interval.mean == pytest.approx(0.375)
    assert found.interval.low < 0.375 < found.interval.high


def test_no_change_is_no_certainty() -> None:
    """Four prompts without a change: Wilson's upper bound of 0 in 4 is 0.49."""
    found = accuracy_loss(labels((2, 1), (2, 1), (1, 2), (3, 1)), labels((2, 1), (2, 1), (1, 2), (3, 1)))
    assert found is not None
    assert (found.interval.mean, found.drift) == (0.0, 0.0)
    assert found.interval.high == pytest.approx(0.4899, abs=1e-3)


def test_ties_decide_nothing() -> None:
    assert accuracy_loss(labels((2, 1), label=0.5), labels((1, 2), label=0.5)) is None
    turned = accuracy_loss(labels((1, 2), label=0.0), labels((2, 1), label=0.0))
    assert turned is not None
    assert (turned.before, turned.after) == (1.0, 0.0)
