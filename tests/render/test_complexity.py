"""How much there is to see in an image, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from keel.render.complexity import SIDE, complexity


def of(pixels: np.ndarray) -> float:
    return complexity(Image.fromarray(pixels.astype(np.uint8)))


def rgb(levels_YX: np.ndarray) -> np.ndarray:
    return np.repeat(levels_YX[..., None], 3, -1)


def test_one_colour_has_nothing_to_see() -> None:
    assert of(np.full((9, 7, 3), 130)) == 0.0
    assert of(np.zeros((1, 1, 3))) == 0.0


def test_a_checkerboard_is_all_edges_and_two_colours() -> None:
    """Every pair of neighbours differs: 1. Two colours, each half of the pixels: log 2 / log 64 = 1/6."""
    board_YX = 255 * (np.indices((8, 8)).sum(0) % 2)
    assert of(rgb(board_YX)) == pytest.approx((1 + 1 / 6) / 2)


def test_two_halves_by_hand() -> None:
    """4 x 4 pixels, left black, right white: of 12 pairs side by side 4 differ, of 12 one below the other none."""
    halves_YX = np.zeros((4, 4))
    halves_YX[:, 2:] = 255
    assert of(rgb(halves_YX)) == pytest.approx((4 / 24 + 1 / 6) / 2)


def test_a_smooth_ramp_has_colours_and_no_edges() -> None:
    """64 levels, 4 apart: four bins of each colour, all three alike: log 4 / log 64 = 1/3."""
    ramp_YX = np.tile(np.arange(0, 256, 4), (3, 1))
    assert of(rgb(ramp_YX)) == pytest.approx((0 + 1 / 3) / 2)


def test_a_step_of_an_eighth_is_no_edge() -> None:
    """Levels 0 and 32 are in the same bin; 33 levels apart is an edge."""
    board_YX = np.indices((8, 8)).sum(0) % 2
    assert of(rgb(32 * board_YX)) == 0.0
    assert of(rgb(33 * board_YX)) == 0.5


def test_noise_has_nearly_all_colours_and_most_edges() -> None:
    """Brightness is 0.299 R + 0.587 G + 0.114 B: of independent pixels two differ by more than 32 levels in about 65% of cases."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    weights = np.array([0.299, 0.587, 0.114])
    a, b = np.random.default_rng(1).integers(0, 256, (2, 200_000, 3)) @ weights
    expected = float((np.abs(a - b) > 32).mean())
    assert of(noise) == pytest.approx((expected + 1.0) / 2, abs=0.01)


def test_size_alone_is_no_complexity() -> None:
    halves_YX = np.zeros((SIDE, SIDE))
    halves_YX[:, SIDE // 2 :] = 255
    large = Image.fromarray(rgb(halves_YX).astype(np.uint8)).resize((8 * SIDE, 8 * SIDE), Image.Resampling.NEAREST)
    assert complexity(large) == pytest.approx(of(rgb(halves_YX)))


def test_it_is_a_share_and_turns_with_the_picture() -> None:
    rng = np.random.default_rng(2)
    for size in ((1, 60), (3, 5), (200, 17), (60, 1)):
        pixels = rng.integers(0, 256, (*size, 3))
        assert 0.0 <= of(pixels) <= 1.0
        if max(size) <= SIDE:
            assert of(np.rot90(pixels)) == pytest.approx(of(pixels))
            assert of(255 - pixels) == pytest.approx(of(pixels), abs=0.02), "brightness is rounded"
    assert math.isfinite(of(rng.integers(0, 256, (1, 2, 3))))
