"""Group sequential bounds beside published tables (Jennison & Turnbull 2000, tables 2.1, 2.2, 2.3, 2.4; Lan & DeMets 1983; R's
gsDesign)."""

from __future__ import annotations

import pytest

from keel.evaluate.ab import boundaries as b
from keel.evaluate.ab.config import PlanConfig
from keel.evaluate.ab.design import design


def even(looks: int) -> list[float]:
    return [(k + 1) / looks for k in range(looks)]


POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}
OBRIEN_FLEMING = {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087}


@pytest.mark.parametrize("looks", POCOCK)
def test_constants_to_three_digits(looks: int):
    assert b.classic("pocock", even(looks))[0] == pytest.approx(POCOCK[looks], abs=6e-4)
    found = b.classic("obrien_fleming", even(looks))
    assert found[-1] == pytest.approx(OBRIEN_FLEMING[looks], abs=6e-4)
    assert found[0] == pytest.approx(found[-1] * looks**0.5)


def test_peeking_at_the_usual_quantile():
    """Armitage, McPherson & Rowe 1969: 5, 10, 20 looks at 1.96 are wrong in 14.2, 19.3, 24.8%."""
    for looks, wrong in ((1, 0.05), (5, 0.142), (10, 0.193), (20, 0.248)):
        up, down = b.crossing([1.959964] * looks, even(looks))
        assert sum(up) + sum(down) == pytest.approx(wrong, abs=6e-4)
        assert up == pytest.approx(down)


def test_spending_at_looks_of_any_spacing():
    """Five even looks: 4.877, 3.357, 2.680, 2.290, 2.031 for one side of 0.025; two-sided spending of 0.05 in the same shape."""
    found = b.spending(b.spent("obrien_fleming", 0.05), [0.3, 0.45, 1.0])
    up, down = b.crossing(found, [0.3, 0.45, 1.0])
    used = [sum(up[: k + 1]) + sum(down[: k + 1]) for k in range(3)]
    assert used == pytest.approx([b.spent("obrien_fleming")(t) for t in (0.3, 0.45, 1.0)], abs=1e-7)
    assert b.spending(b.spent("pocock"), [0.2, 0.4, 0.6, 0.8, 1.0]) == pytest.approx((2.438, 2.427, 2.410, 2.397, 2.386), abs=6e-4)
    assert b.spending(b.spent("pocock"), [1.0]) == pytest.approx((1.959964,), abs=1e-5)
    earlier = b.spending(b.spent("obrien_fleming"), [0.3, 0.45])
    assert found[:2] == pytest.approx(earlier, abs=1e-9)  # later looks change nothing


def test_inflation_of_the_sample():
    """Power 80%: Pocock 1.110, 1.229, 1.301; O'Brien-Fleming 1.008, 1.028, 1.040 times the sample of one look."""
    for kind, rates in (("pocock", (1.110, 1.229, 1.301)), ("obrien_fleming", (1.008, 1.028, 1.040))):
        for looks, rate in zip((2, 5, 10), rates, strict=True):
            drift = b.drift_of(b.classic(kind, even(looks)), even(looks), 0.8)
            assert (drift / (1.959964 + 0.841621)) ** 2 == pytest.approx(rate, abs=1.5e-3)


def test_a_single_look_is_the_usual_sample():
    """A win rate of 55 or 60%: 785 and 197 prompts (1.96 + 0.84)^2 / 4 / effect^2."""
    for effect, n in ((0.05, 785), (0.1, 197)):
        found = design(PlanConfig(min_effect=effect, looks=1), 0.05, 0.5)
        assert (found.n, found.fixed) == (n, n)


def test_what_is_no_plan_is_refused():
    with pytest.raises(ValueError, match="rise"):
        b.crossing([2.0, 2.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="rise"):
        PlanConfig(min_effect=0.1, looks=(0.5, 0.9))
    with pytest.raises(ValueError, match="spending"):
        b.spent("haybittle")
