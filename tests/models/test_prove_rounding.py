"""A proof tells a chaotic prompt, which bf16 rounds by more than itself, from a path that is wrong."""

from __future__ import annotations

import pytest
import torch

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.prove import beyond_rounding, relative_error, shaken

ROWS = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def model(request: pytest.FixtureRequest):
    return load_model("tiny:llama?seed=1", ModelOptions(precision=request.param)).model


def off(rows: slice, by: float) -> torch.Tensor:
    """``ROWS`` with some of them off by ``by`` times their size."""
    got = ROWS.clone()
    got[rows] *= 1 + by
    return got


def test_a_few_rows_that_the_model_rounds_as_much_do_not_count(model) -> None:
    assert relative_error(off(slice(3), 1.0), ROWS) > 0.1
    assert beyond_rounding(model, off(slice(3), 1.0), ROWS, lambda: off(slice(3), 0.6)) == 0
    calm = beyond_rounding(model, off(slice(3), 1.0), ROWS, lambda: off(slice(3), 0.001))
    assert calm == relative_error(off(slice(3), 1.0), ROWS)


def test_most_rows_wrong_stay_wrong_however_much_the_model_rounds(model) -> None:
    assert beyond_rounding(model, off(slice(30), 0.3), ROWS, lambda: off(slice(3), 5.0)) > 0.2


def test_what_is_within_tolerance_asks_nothing_of_the_model(model) -> None:
    def again() -> torch.Tensor:
        raise AssertionError("not asked")

    assert beyond_rounding(model, off(slice(40), 5e-5), ROWS, again) == pytest.approx(5e-5, rel=0.05)


def test_shaking_moves_the_states_by_about_a_rounding_and_ends(model) -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        before = model.run_plain(tokens, torch.ones_like(tokens))
        with shaken(model):
            within = model.run_plain(tokens, torch.ones_like(tokens))
        after = model.run_plain(tokens, torch.ones_like(tokens))
    assert torch.equal(before, after)
    epsilon = torch.finfo(model.compute_dtype).eps
    assert 0.05 * epsilon < relative_error(within.float(), before.float()) < 20 * epsilon
