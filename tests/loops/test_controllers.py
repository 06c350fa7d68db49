"""Controllers of KL coefficients against numbers worked out by hand, and the state that a run keeps of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keel.loops.control import Coefficients, doubled_or_halved, multiplicative, proportional, scheduled, stepped
from keel.methods import ALGORITHMS, KL, Control


def test_proportional_follows_the_error_and_clips_it():
    def step(kl: float, floor: float = 1e-4) -> float:
        return proportional(0.5, kl, target=2.0, samples=100, horizon=1000.0, floor=floor)

    assert step(2.2) == pytest.approx(0.5 * 1.01)  # error 0.1
    assert step(2.0) == 0.5
    assert step(1.9) == pytest.approx(0.5 * 0.995)
    assert step(200.0) == pytest.approx(0.5 * 1.02)  # at most 0.2
    assert step(-200.0) == pytest.approx(0.5 * 0.98)  # k1 of a batch may be negative
    assert step(-200.0, floor=0.495) == 0.495


def test_multiplicative_waits_for_a_clear_miss():
    def step(kl: float, coef: float = 1.0) -> float:
        return multiplicative(coef, kl, target=2.0, low=0.8, high=10.0)

    assert [step(kl) for kl in (3.1, 3.0, 2.0, 1.0)] == [1.5, 1.0, 1.0, 1.0]
    assert step(0.9) == 0.8  # 0.75, and not below low
    assert step(0.9, 2.0) == 1.5
    assert step(3.1, 9.0) == 10.0


def test_scheduled_is_a_straight_line():
    assert [scheduled(1.0, 0.5, x) for x in (0.0, 0.5, 1.0)] == [1.0, 0.75, 0.5]


def test_doubling_and_halving():
    assert [doubled_or_halved(1.0, kl, 3.0) for kl in (4.5, 4.51, 2.0, 1.99)] == [1.0, 2.0, 1.0, 0.5], "at the limits it stays"
    assert [doubled_or_halved(1.0, kl, 0.03) for kl in (0.046, 0.045, 0.03, 0.021, 0.019, 0.0)] == [2.0, 1.0, 1.0, 1.0, 0.5, 0.5]


def with_control(control: Control | None) -> Coefficients:
    return Coefficients(replace(ALGORITHMS["rloo"], kl=KL("reward", "k1", 1.0, control)), total_steps=5)


SEEN = {"objective/kl": 30.0, "objective/kl_per_token": 3.0}


@pytest.mark.parametrize(
    ("control", "after"),
    [
        (None, 1.0),
        (Control("multiplicative", target=1.0), 1.5),
        (Control("multiplicative", target=3.0), 1.0),
        (Control("multiplicative", target=30.0, unit="sequence"), 1.0),
        (Control("multiplicative", target=10.0, unit="sequence"), 1.5),
        (Control("proportional", target=1.0, horizon=100.0), 1.02),
        (Control("scheduled", end=0.0), 0.75),
    ],
)
def test_the_coefficient_of_the_next_step(control, after):
    coefficients = with_control(control)
    assert coefficients.metrics(0) == {"kl_coef": 1.0}
    coefficients.update(SEEN, samples=10, old_kl=None)
    assert coefficients.metrics(1) == {"kl_coef": pytest.approx(after)}
    assert coefficients.algorithm(1).kl.coef == pytest.approx(after)
    resumed = with_control(control)
    resumed.load_state(coefficients.state())
    assert resumed.algorithm(1) == coefficients.algorithm(1)


@pytest.mark.parametrize(("steps", "prices"), [(1, [1.0]), (2, [1.0, 0.5]), (3, [1.0, 0.75, 0.5])])
def test_a_scheduled_price_ends_with_the_last_step(steps: int, prices: list[float]):
    kl = KL("reward", "k1", 1.0, Control("scheduled", end=0.5))
    coefficients = Coefficients(replace(ALGORITHMS["rloo"], kl=kl), total_steps=steps)
    assert [coefficients.algorithm(step).kl.coef for step in range(steps)] == prices


def test_a_step_without_samples_moves_nothing():
    coefficients = with_control(Control("multiplicative", target=1.0))
    coefficients.update({}, samples=0, old_kl=None)
    assert coefficients.metrics(1) == {"kl_coef": 1.0}


def test_the_price_of_the_old_policy_s_kl():
    coefficients = Coefficients(ALGORITHMS["ppo_kl"], total_steps=5)
    assert coefficients.metrics(0) == {"kl_coef": 0.05, "policy/old_kl_coef": 1.0}
    for old_kl, after in ((0.02, 2.0), (0.01, 2.0), (0.001, 1.0), (None, 1.0)):
        coefficients.update({}, samples=4, old_kl=old_kl)
        assert coefficients.algorithm(1).policy_objective().old_kl_coef == after
    assert coefficients.state() == {"kl": 0.05, "old_kl": 1.0, "entropy": 0.0}
    assert Coefficients(ALGORITHMS["dapo"], total_steps=5).state()["kl"] == 0.0
    ppo = Coefficients(ALGORITHMS["ppo"], total_steps=5)
    ppo.update({}, samples=4, old_kl=9.0)
    assert ppo.metrics(0) == {"kl_coef": 0.05}


def test_an_entropy_bonus_takes_a_step_a_time():
    assert stepped(0.01, 0.4, 0.5, 0.005, 0.1) == pytest.approx(0.015)
    assert stepped(0.01, 0.5, 0.5, 0.005, 0.1) == pytest.approx(0.005), "on target it is not needed"
    assert stepped(0.004, 0.9, 0.5, 0.005, 0.1) == 0.0
    assert stepped(0.099, 0.1, 0.5, 0.005, 0.1) == 0.1


@pytest.mark.parametrize(("complexity", "after"), [({}, 1.5), ({"prompts/complexity": 0.5}, 1.0), ({"prompts/complexity": 0.1}, 1.5)])
def test_complex_prompts_may_go_further(complexity: dict[str, float], after: float):
    """Target 1 and slope 3: 2.5 at complexity 0.5, where 3 nats are no clear miss; 1.3 at 0.1, where they are."""
    coefficients = with_control(Control("multiplicative", target=1.0, target_slope=3.0))
    coefficients.update({**SEEN, **complexity}, samples=10, old_kl=None)
    assert coefficients.metrics(1) == {"kl_coef": pytest.approx(after)}
