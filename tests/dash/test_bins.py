"""Columns of pictures: nothing that matters is lost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keel.dash import bins


def test_steps_that_fit_stand_for_themselves() -> None:
    grid = bins.grid([np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0])], 1, 5, 100)
    assert grid.x_B.tolist() == [1, 2, 3, 5]
    curve = bins.binned([2.0, 5.0], [7.0, 9.0], grid, 1, 5)
    assert curve.mean_B.tolist()[1::2] == [7.0, 9.0]
    assert np.isnan(curve.mean_B[[0, 2]]).all()


def test_a_column_has_least_greatest_and_mean() -> None:
    steps = np.arange(1.0, 9.0)
    grid = bins.Grid(np.array([2.5, 6.5]), (0.5, 4.0))  # steps 1-4 and 5-8
    curve = bins.binned(steps, [1, 2, 3, 10, 5, 5, 5, 5], grid, 1, 8)
    assert (curve.mean_B.tolist(), curve.low_B.tolist(), curve.high_B.tolist()) == ([4.0, 5.0], [1.0, 5.0], [10.0, 5.0])


def test_one_spike_and_one_nan_in_a_hundred_thousand_steps_are_there() -> None:
    steps, values = np.arange(1.0, 100_001.0), np.zeros(100_000, np.float32)
    values[70_122], values[33_332], values[5] = 999.0, np.nan, -np.inf
    grid = bins.grid([steps], 1, 100_000, 400)
    assert len(grid.x_B) == 400
    curve = bins.binned(steps, values, grid, 1, 100_000)
    assert np.nanmax(curve.high_B) == 999.0
    assert abs(grid.x_B[int(np.nanargmax(curve.high_B))] - 70_123) < 250
    assert [kind for _, kind in curve.holes] == ["-Infinity", "NaN"] or [kind for _, kind in curve.holes] == ["NaN", "-Infinity"]
    assert {round(float(grid.x_B[at]), -3) for at, _ in curve.holes} == {0.0, 33_000.0}


@pytest.mark.parametrize("seed", range(40))
def test_greatest_and_least_of_the_columns_are_those_of_the_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, pixels = int(rng.integers(1, 300)), int(rng.integers(1, 40))
    steps, values = rng.integers(0, 500, n).astype(float), rng.normal(0, 10.0 ** rng.integers(-3, 6), n)
    low, high = steps.min(), steps.max()
    curve = bins.binned(steps, values, bins.grid([steps], low, high, pixels), low, high)
    assert np.nanmax(curve.high_B) == values.max()
    assert np.nanmin(curve.low_B) == values.min()
    inside = ~np.isnan(curve.mean_B)
    assert (curve.low_B[inside] <= curve.mean_B[inside] + 1e-6).all()
    assert (curve.mean_B[inside] <= curve.high_B[inside] + 1e-6).all()


def test_what_lies_outside_the_window_is_left_out() -> None:
    steps = np.arange(10.0)
    curve = bins.binned(steps, steps, bins.grid([steps], 3, 5, 50), 3, 5)
    assert curve.mean_B.tolist() == [3.0, 4.0, 5.0]


def test_pooled_seeds_by_hand() -> None:
    grid = bins.Grid(np.array([1.0, 2.0]))
    runs = [bins.binned([1.0, 2.0], [value, 5.0], grid, 1, 2) for value in (1.0, 2.0, 3.0)]
    runs[2] = bins.binned([1.0], [3.0], grid, 1, 2)
    whole = bins.pooled(runs)
    assert whole.mean_B.tolist() == [2.0, 5.0]
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom, standard deviation 1
    assert whole.inner_high_B[0] == pytest.approx(2.0 + half)
    assert whole.inner_low_B[0] == pytest.approx(2.0 - half)
    assert whole.inner_high_B[1] == 5.0  # two seeds that say the same
    assert (whole.low_B[0], whole.high_B[0]) == (1.0, 3.0)


def test_one_seed_has_no_interval() -> None:
    whole = bins.pooled([bins.binned([1.0], [1.0], bins.Grid(np.array([1.0])), 1, 1)])
    assert np.isnan(whole.inner_low_B).all()


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (19, 2.093), (20, 2.086), (30, 2.042), (120, 1.980), (100_000, 1.960)])
def test_students_quantile_as_in_tables(freedom: int, t: float) -> None:
    assert bins.student(freedom) == pytest.approx(t, abs=0.002)
    assert math.isnan(bins.student(0))
