"""The arithmetic of a search: what it costs, which settings it tries, what may be concluded."""

from __future__ import annotations

import math
import random

import pytest

from keel.core.errors import ConfigError
from keel.tune.compare import Outcome, compare
from keel.tune.config import RangeConfig, TuneConfig
from keel.tune.plan import Halt, cost, halving, make_plan, rungs
from keel.tune.space import halton, points, value_at


def test_halts_by_hand() -> None:
    assert rungs(90, 3, 0) == [10, 30, 90]
    assert rungs(100, 3, 20) == [20, 60, 100]
    assert rungs(5, 3, 5) == [5]
    assert halving(10, [10, 30, 90], 3) == (Halt(10, 10), Halt(30, 4), Halt(90, 2))
    assert halving(3, [10, 30, 90], 3) == (Halt(10, 3),), "one is left: it need not be trained on with this seed"
    assert cost((Halt(10, 10), Halt(30, 4), Halt(90, 2))) == 100 + 80 + 120


def test_a_plan_takes_as_many_runs_as_the_budget_pays_for() -> None:
    """Seeded loop: never above the budget, and one run more would be."""
    draw = random.Random(3)
    for _ in range(200):
        steps, keep, seeds = draw.randint(2, 200), draw.randint(2, 5), draw.randint(2, 4)
        budget = draw.randint(2 * seeds * steps, 60 * steps)
        try:
            plan = make_plan(steps, keep, 0, seeds, budget)
        except ConfigError:
            assert cost(halving(2, rungs(steps, keep, 0), keep)) + 2 * seeds * steps > budget
            continue
        assert plan.search_cost + plan.compare_cost <= budget
        more = cost(halving(plan.runs + 1, rungs(steps, keep, 0), keep)) + plan.compare_cost
        assert more > budget
        assert [h.steps for h in plan.halts] == sorted({h.steps for h in plan.halts})


def test_a_budget_that_is_too_small_is_told_with_the_least_one() -> None:
    with pytest.raises(ConfigError, match=r"tune\.budget=30 steps do not pay .* which take 42"):
        make_plan(10, 3, 1, 2, 30)


def test_no_more_runs_than_there_are_settings() -> None:
    assert make_plan(10, 3, 0, 2, 10_000, most=4).runs == 4


def test_haltons_sequence() -> None:
    assert [halton(i, 2) for i in range(1, 6)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8]
    assert [halton(i, 3) for i in range(1, 4)] == [pytest.approx(x) for x in (1 / 3, 2 / 3, 1 / 9)]


def test_values_of_a_range() -> None:
    log = RangeConfig(low=1e-6, high=1e-2)
    assert value_at(log, 0.0) == 1e-6
    assert value_at(log, 0.5) == pytest.approx(1e-4)
    assert value_at(RangeConfig(low=-1, high=3, scale="linear"), 0.25) == 0.0
    whole = RangeConfig(low=1, high=8, scale="whole")
    assert {value_at(whole, i / 1000) for i in range(1000)} == set(range(1, 9))
    assert [value_at(RangeConfig(values=("a", "b")), u) for u in (0.0, 0.49, 0.5, 0.999)] == ["a", "a", "b", "b"]


def test_points_are_within_spread_different_and_the_same_again() -> None:
    search = {"optim.lr": RangeConfig(low=1e-5, high=1e-3), "algorithm.kl.coef": RangeConfig(low=0.01, high=1.0)}
    for seed in range(5):
        found = points(search, 16, seed)
        assert found == points(search, 16, seed) != points(search, 16, seed + 100)
        assert found[:7] == points(search, 7, seed), "a smaller search is the beginning of a larger one"
        assert len({tuple(p.values()) for p in found}) == 16
        for key, where in search.items():
            shares = [math.log(p[key] / where.ends[0]) / math.log(where.ends[1] / where.ends[0]) for p in found]
            assert all(-1e-9 <= s <= 1 + 1e-9 for s in shares)
            assert {int(s * 4 - 1e-9) for s in shares} == {0, 1, 2, 3}, "every quarter of the range is visited"


def test_a_finite_space_ends() -> None:
    search = {"a": RangeConfig(values=(1, 2)), "b": RangeConfig(values=("x", "y"))}
    found = points(search, 100, 0, known=[{"a": 1, "b": "x"}])
    assert sorted(map(str, found)) == ["{'a': 1, 'b': 'y'}", "{'a': 2, 'b': 'x'}", "{'a': 2, 'b': 'y'}"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"search": {"optim.lr": [1, 2, 3]}}, "a range is"),
        ({"search": {"optim.lr": [2, 1]}}, "must be below"),
        ({"search": {"optim.lr": [0, 1]}}, "set scale: linear"),
        ({"search": {"seed": [1, 2]}}, "no setting of a training"),
        ({"search": {"settings.threads": [1, 2]}}, "no setting of a training"),
        ({"measure": "reward"}, "what a run trains on chooses nothing"),
        ({"measure": "eval/odd"}, "Set mode"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        TuneConfig.model_validate(given)


def outcomes(*values: float, noise: float = 0.0) -> list[Outcome]:
    return [Outcome(v, {f"p{i}": v + noise * (-1) ** i for i in range(8)}) for v in values]


def test_better_worse_and_cannot_tell() -> None:
    own = outcomes(0.50, 0.52, 0.51)
    assert compare(own, outcomes(0.80, 0.82, 0.81), True).verdict == "better"
    assert compare(own, outcomes(0.80, 0.82, 0.81), False).verdict == "worse", "where less is better"
    assert compare(own, outcomes(0.10, 0.12, 0.11), True).verdict == "worse"
    found = compare(own, outcomes(0.2, 0.9, 0.6), True)
    assert found.verdict == "cannot tell"
    assert found.difference is not None
    assert found.difference.low < 0 < found.difference.high


def test_the_interval_holds_what_other_seeds_and_other_prompts_would_give() -> None:
    """By hand: gaps 0.1, 0.2, 0.3 over seeds, the same on all prompts: t of 2 degrees, 4.302653 * 0.1 / sqrt(3)."""
    found = compare(outcomes(0, 0, 0), outcomes(0.1, 0.2, 0.3), True).difference
    assert found is not None
    assert (found.low, found.high) == (
        pytest.approx(0.2 - 4.302653 * 0.1 / math.sqrt(3)),
        pytest.approx(0.2 + 4.302653 * 0.1 / math.sqrt(3)),
    )
    prompts = [Outcome(0.2, {"a": 1.0, "b": 1.0, "c": -1.4}) for _ in range(3)]
    plain = [Outcome(0.0, dict.fromkeys("abc", 0.0)) for _ in range(3)]
    spread = compare(plain, prompts, True)
    assert spread.verdict == "cannot tell", "the seeds agree, the prompts do not"


def test_equal_settings_are_seldom_told_apart() -> None:
    """Both sides drawn alike: at most one in ten is called different (nominal one in twenty, the wider of two intervals)."""
    draw = random.Random(1)
    wrong = 0
    for _ in range(120):
        sides = []
        for _ in range(2):
            seeds = [draw.gauss(0, 0.1) for _ in range(3)]
            sides.append([Outcome(s, {f"p{i}": s + draw.gauss(0, 0.2) for i in range(12)}) for s in seeds])
        wrong += compare(sides[0], sides[1], True).verdict != "cannot tell"
    assert wrong <= 12


def test_a_run_that_broke_off_decides() -> None:
    own, broken = outcomes(0.5, 0.5), [*outcomes(0.9), Outcome(math.nan, {}, "diverged")]
    assert compare(own, broken, True).verdict == "worse"
    assert compare(broken, own, True).verdict == "better"
    assert compare(broken, broken, True).verdict == "cannot tell"
