from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from keel.data.ordering import draws, easiest_first, percentiles, released, row_weights


def test_the_share_grows_in_equal_steps_up_to_all() -> None:
    found = [released(step, 40, 0.2, 0.5, 4) for step in range(40)]
    assert [share for share, _ in found[:20:5]] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert {found[20], found[39]} == {(1.0, 20)}
    assert [first for _, first in found[:20]] == [0] * 5 + [5] * 5 + [10] * 5 + [15] * 5


def test_a_curriculum_shorter_than_its_stages_ends_with_all_rows() -> None:
    assert released(1, 2, 0.1, 0.5, 8)[0] == 1.0
    assert released(0, 100, 1.0, 0.5, 3)[0] == 1.0


def test_easiest_first_and_equal_ones_by_the_seed() -> None:
    assert easiest_first([3.0, 1.0, 2.0], 0) == [1, 2, 0]
    assert sorted(easiest_first([0.0] * 9, 0)) == list(range(9))
    assert easiest_first([0.0] * 9, 0) != easiest_first([0.0] * 9, 1)


def test_percentiles_put_equal_values_at_their_middle() -> None:
    assert percentiles([5.0, 1.0, 3.0]) == [1.0, 0.0, 0.5]
    assert percentiles([1.0, 1.0, 2.0]) == [0.25, 0.25, 1.0]
    assert percentiles([4.0, 3.0]) == [1.0, 0.0]
    assert percentiles([7.0]) == [0.5]


def test_equal_weights_draw_every_row_once() -> None:
    assert sorted(draws([2.0] * 12, 12, "t")) == list(range(12))
    assert draws([2.0] * 12, 12, "t") != list(range(12))


@pytest.mark.parametrize("seed", range(5))
def test_a_row_comes_as_often_as_its_weight_says_to_within_one(seed: int) -> None:
    weights = [1.0, 3.0, 0.5, 2.5, 1.0]
    counts = Counter(draws(weights, 40, "t", seed))
    for i, w in enumerate(weights):
        assert abs(counts[i] - 40 * w / sum(weights)) < 1.0
    assert draws(weights, 0, "t") == []
    assert draws([0.0, 1.0], 1, "t", seed) == [1]


def test_weights_by_wrong_and_by_loss() -> None:
    losses, wrong = np.array([0.1, 0.2, 1.0, 4.0, np.nan]), np.array([False, False, True, True, False])
    assert row_weights(losses, wrong, "wrong", 3.0, 0.0).tolist() == [1.0, 1.0, 3.0, 3.0, 1.0]
    # the median of the four is 0.6
    assert row_weights(losses, wrong, "loss", 3.0, 0.0).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 0.6, 3.0, 1.0])


def test_the_rows_of_the_greatest_loss_are_not_amplified() -> None:
    losses, wrong = np.array([0.1, 0.2, 1.0, 4.0, np.nan]), np.array([False, False, True, True, False])
    assert row_weights(losses, wrong, "wrong", 3.0, 0.25).tolist() == [1.0, 1.0, 3.0, 1.0, 1.0]
    assert row_weights(losses, wrong, "loss", 3.0, 0.25)[3] == 1.0
    assert row_weights(np.full(3, np.nan), np.zeros(3, dtype=np.bool_), "loss", 3.0, 0.5).tolist() == [1.0] * 3
