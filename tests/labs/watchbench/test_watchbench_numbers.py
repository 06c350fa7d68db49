"""The arithmetic of the bench, with numbers made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from keel.evaluate.statistics import Interval
from keel.watch.config import Rule
from keel.watch.engine import Finding
from labs.watchbench.guarded import cost, pairs
from labs.watchbench.intervals import rate, share
from labs.watchbench.judge import Verdict
from labs.watchbench.plan import HEALTHY, SICK, Run, all_runs, make
from labs.watchbench.roc import with_limit
from labs.watchbench.store import packed, rounded, unpacked
from labs.watchbench.summary import before_onset, family, goals, halves, rule
from labs.watchbench.truth import ill_before, shows_at, took


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 300, 0.0, 1 - 0.025 ** (1 / 300)),  # nothing of n: in closed form
        (10, 10, 0.025 ** (1 / 10), 1.0),
        (1, 2, 1 - math.sqrt(0.975), math.sqrt(0.975)),  # P(X >= 1) = 1 - (1 - p)^2, P(X <= 1) = 1 - p^2
    ],
)
def test_exact_intervals_of_shares(hits: int, n: int, low: float, high: float) -> None:
    found = share(hits, n)
    assert found.mean == hits / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_exact_intervals_of_rates() -> None:
    none = rate(0, 2.0)
    assert (none.low, none.high) == pytest.approx((0.0, -math.log(0.025) / 2), abs=1e-9)  # P(X = 0) = e^-m
    one = rate(1, 1.0)
    assert one.low == pytest.approx(-math.log(0.975), abs=1e-9)  # P(X >= 1) = 1 - e^-m
    assert math.exp(-one.high) * (1 + one.high) == pytest.approx(0.025, abs=1e-9)  # P(X <= 1)
    with pytest.raises(ValueError, match="rate"):
        rate(1, 0.0)


def test_of_no_trials_nothing_is_known() -> None:
    found = share(0, 0)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)
    assert math.isnan(found.mean)


def run(family: str, **given: Any) -> Run:
    return replace(make(family, 0), **given)


def alarm(name: str, step: int) -> Finding:
    return Finding(name, "warning", "kl", 1.0, step, "")


def verdict(of: Run, alarms: list[tuple[str, int]], **given: Any) -> Verdict:
    made = Verdict(of, of.family != HEALTHY, 100, of.onset + 1, tuple(alarm(*a) for a in alarms), (), None, "", "", (0, 10, 20, 30, 40))
    return replace(made, **given)


def test_families_rules_and_goals_count_what_they_say() -> None:
    sick = run("explosion", onset=20)
    found = [
        verdict(sick, [("kl-jump", 23)], named=23, cause="steps far too large"),
        verdict(sick, [("kl-jump", 31)], named=31, cause="length"),
        verdict(sick, [("gold-gap", 25)]),
        verdict(run(HEALTHY), [("kl-jump", 5), ("kl-jump", 50)]),
        verdict(run(HEALTHY), [], took=True),  # it fell ill by itself: it counts as neither
        verdict(run(HEALTHY), []),
    ]
    of = family("explosion", found)
    assert (of.runs, of.took, of.named.mean, of.cause.mean, of.delays) == (3, 3, 2 / 3, 1 / 3, (2, 10))
    assert of.in_time is not None
    assert of.in_time.mean == 1 / 3
    kl = rule("kl-jump", found)
    assert (kl.false_runs.mean, kl.false_alarms.mean, kl.delay) == (1 / 2, 2 / 0.2, 6)
    assert kl.detected is not None
    assert kl.detected.mean == 2 / 3
    assert rule("stale", found).detected is None
    by_name = {row["what"]: row for row in goals(found)}
    assert by_name["warnings in 1,000 healthy steps"]["found"]["mean"] == 10.0
    assert not by_name["warnings in 1,000 healthy steps"]["met"]
    assert by_name["acting false alarms in healthy runs"]["met"]
    assert {name: len(of) for name, of in halves(found, {"healthy-000"}).items()} == {"all": 6, "tuned on": 3}, "no other healthy run"
    assert {name: len(of) for name, of in halves(found, ()).items()} == {"all": 6, "kept apart": 6}, "one's own were never in view"


def test_delays_of_gaming_are_counted_in_evaluations() -> None:
    leak = run("leak", onset=5)
    assert verdict(leak, [], shows=10, named=30).delay == 2
    assert verdict(leak, [], shows=20, named=20).delay == 0
    assert verdict(leak, [], shows=30, named=10).delay == 0
    assert verdict(leak, [], shows=30).delay is None


def rows(**columns: list[float]) -> list[dict[str, float]]:
    n = len(next(iter(columns.values())))
    return [{"step": float(i + 1), **{k.replace("__", "/"): v[i] for k, v in columns.items() if not math.isnan(v[i])}} for i in range(n)]


def test_a_sickness_shows_where_its_metric_has_changed() -> None:
    entropy = rows(entropy=[2.0] * 30 + [1.5, 1.2, 1.1, 1.0, 1.0])
    assert shows_at(run("entropy", onset=28), entropy) == 34  # the first mean of three below 1.2 is that of 1.2, 1.1, 1.0
    assert took(run("entropy", onset=28), entropy, {})
    assert not took(run("entropy", onset=28), entropy[:30], {})
    grown = rows(completions__mean_length=[10.0] * 30 + [12.0, 14.0, 16.0])
    assert shows_at(run("length", onset=30), grown) == 33  # 14 on average, and 1.3 times 10 is less
    assert shows_at(run("explosion", onset=7), grown) == 8


def test_gaming_shows_in_the_gold_and_took_if_it_lasts() -> None:
    gold = [math.nan] * 40
    gold[0], gold[10], gold[20], gold[30] = 0.2, 0.4, 0.35, 0.1
    sick = rows(reward=[0.1 * i for i in range(40)], eval__rewards__gold__mean=gold)
    keyword = run("keyword", onset=5, task="echo")
    assert shows_at(keyword, sick) == 31  # 0.3 below the best; 0.05 is less than what counts
    assert took(keyword, sick, {"rewards/gold/mean": 0.05})
    assert not took(keyword, sick, {"rewards/gold/mean": 0.15}), "at the end it is where it was when the flaw came in"
    assert not took(keyword, sick[:25], {"rewards/gold/mean": 0.0})


def test_a_run_that_nothing_was_put_into_can_fall_ill() -> None:
    held = rows(eval__reward=[0.1, 0.5, 0.9, 0.6])
    well = run(HEALTHY, task="last")
    assert not took(well, held, {"reward": 0.6})
    assert took(well, held, {"reward": 0.4}), "more than half of what it had learned is lost"
    assert took(well, rows(eval__reward=[0.3, 0.3]), {"reward": 0.1}), "below where it began"
    assert took(well, rows(eval__reward=[0.3, 0.3]), {}), "its weights are broken"


def test_a_run_can_fall_ill_before_it_is_made_sick() -> None:
    sick = run("drift", task="last", onset=3)
    assert ill_before(sick, rows(eval__reward=[0.1, 0.9, 0.2, 0.9])), "most of what it had learned was lost by then"
    assert not ill_before(sick, rows(eval__reward=[0.1, 0.9, 0.8, 0.0])), "what comes later is the sickness that was put in"
    assert not ill_before(sick, rows(eval__reward=[0.9, math.nan, math.nan, 0.0])), "one evaluation shows no fall"
    found = [
        verdict(sick, [("kl", 2), ("kl", 3), ("kl", 9)]),
        verdict(replace(sick, number=1), [("no-signal", 2), ("kl", 9)], ill_before=True),
        verdict(run(HEALTHY), [("kl", 1)]),
    ]
    told = before_onset(found)
    assert (told["steps"], told["alarms"], told["ill"]) == (3, 2, {"drift-001": ["no-signal"]})


def test_what_a_guard_costs() -> None:
    found = cost([1.0, 0.8], [1.0, 0.6], [0.0, 0.0])
    assert found.mean == pytest.approx(0.2 / 1.8)
    assert (found.low, found.high, found.n) == (0.0, pytest.approx(0.25), 2)  # the second pair drawn twice loses a quarter
    assert cost([1.0], [1.0], [0.5]) == Interval(0.0, 0.0, 0.0, 1)
    with pytest.raises(ValueError, match="learned"):
        cost([0.5], [0.5], [0.5])


def test_pairs_are_those_of_one_name() -> None:
    one = {"run": make(HEALTHY, 0), "rows": [{"step": 0.0, "eval/reward": 0.1}], "final": {"reward": 0.5}, "actions": []}
    other = {**one, "final": {"reward": 0.4}, "actions": [{"kind": "adjusted"}], "rows": [{"step": 0.0, "eval/reward": 0.2}]}
    (pair,) = pairs([one], [other])
    assert pair == {"name": "healthy-000", "without": 0.5, "guarded": 0.4, "start": 0.1, "actions": 1, "same": False}
    assert pairs([one], [one])[0]["same"]
    assert pairs([one], [{**one, "run": make(HEALTHY, 1)}]) == []


def test_another_limit_takes_the_place_of_the_shipped_one() -> None:
    own = Rule(name="x", expr="change(kl, 3) > 4 and kl > 1", act="rollback")
    other = with_limit(own, "change(kl, 3) > 4", 2.5)
    assert (other.condition, other.act) == ("change(kl, 3) > 2.5 and kl > 1", "")
    with pytest.raises(ValueError, match="0 times"):
        with_limit(own, "change(kl, 3) > 5", 1)


def test_records_keep_four_digits_and_what_is_not_finite() -> None:
    assert (rounded(0.123456), rounded(2.0), rounded(0.0)) == (0.1235, 2, 0.0)
    row = {"run": make(HEALTHY, 3).to_json(), "rows": [{"step": 1, "loss": math.nan, "time/step_s": 3.0}, {"step": 2, "reward": 1 / 3}]}
    back = unpacked(packed(row))
    assert back["run"] == make(HEALTHY, 3)
    assert [set(r) for r in back["rows"]] == [{"step", "loss"}, {"step", "reward"}]
    assert math.isnan(back["rows"][0]["loss"])
    assert back["rows"][1]["reward"] == 0.3333


def test_the_plan_has_all_families_and_is_the_same_again() -> None:
    runs = all_runs()
    assert len({r.name for r in runs}) == len(runs)
    assert sum(r.family == HEALTHY for r in runs) >= 300
    assert sum(r.family in SICK for r in runs) >= 200
    assert {r.family for r in runs[:60]} == {HEALTHY, *SICK}, "a bench that was cut short has some of each"
    assert all(r == make(r.family, r.number) for r in runs)
    assert all((r.onset >= 0) == (r.family != HEALTHY) for r in runs)
