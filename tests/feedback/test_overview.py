"""A campaign at a glance: numbers by hand."""

from __future__ import annotations

import math

import pytest

from keel.feedback.campaigns import Campaign
from keel.feedback.overview import HOUR, cycles, disputes, forecast, left, mean_likeness, workers
from keel.types import Candidate, Choice, Judgement, Prompt, Scores, Task


def _said(by: str, task: str, chosen: str, purpose: str = "work", order: tuple[int, int] = (0, 1), n: int = 0, ms: int = 1000) -> Judgement:
    at = "2026-01-01T00:00:00Z"
    return Judgement(f"e-{by}-{task}-{purpose}-{n}", task, by, purpose, Choice(chosen), order, "v1", at, active_ms=ms)  # type: ignore[arg-type]


def _task(name: str, prompt: str = "p", a: str = "a", b: str = "b", expected: Choice | None = None) -> Task:
    return Task(name, Prompt(prompt, text="q"), (Candidate(a, a), Candidate(b, b)), "pairwise", "v1", expected=expected)


def test_forecast_counts_hours_with_votes() -> None:
    now = 100 * HOUR
    times = [now - 0.5 * HOUR] * 6 + [now - 5.5 * HOUR] * 4 + [now - 30 * HOUR] * 99
    found = forecast(times, 20, now)
    assert (found.per_hour, found.hours, found.missing) == (5.0, 4.0, 20)
    assert math.isnan(forecast([], 20, now).hours)


def test_mean_likeness_by_hand() -> None:
    work = [_said(x, "t1", "first") for x in "ab"] + [_said("a", "t2", "first"), _said("b", "t2", "tie"), _said("c", "t2", "first")]
    found = mean_likeness([*work, _said("a", "t3", "tie")], 1.0)
    assert found.value == pytest.approx((1 + 1 / 3) / 2)
    assert (found.n, found.low, found.high) == (2, pytest.approx(1 / 3), 1.0)
    assert math.isnan(mean_likeness([], 1.0).value)


def test_a_person_by_hand() -> None:
    known = Choice("first")
    tasks = {n: _task(n, expected=known if n.startswith("g") else None) for n in ("t1", "t2", "g1", "g2")}
    mine = [
        _said("a", "t1", "first", ms=1000),
        _said("a", "t2", "second", order=(1, 0), ms=2000),
        _said("a", "g1", "first", "gold", ms=9000),
        _said("a", "g2", "tie", "gold", ms=9500),
        _said("a", "t1", "second", "repeat", n=1, ms=3000),
    ]
    others = [_said("b", "t1", "first"), _said("c", "t1", "second"), _said("b", "t2", "second")]
    found = {w.annotator: w for w in workers([*mine, *others], tasks, Campaign("c", 3, "pairwise", "v1"))}["a"]
    assert (found.votes, found.gold.hits, found.gold.n) == (2, 1, 2)
    assert (found.left.hits, found.left.n) == (2, 2)  # the second candidate stood on the left
    assert (found.same.hits, found.same.n) == (0, 1)
    assert found.alike == pytest.approx((0.5 + 1.0) / 2)
    assert found.seconds == 3.0
    assert math.isnan(found.alike_before)


def test_left_is_the_side_of_the_screen() -> None:
    assert left(_said("a", "t", "first", order=(0, 1))) is True
    assert left(_said("a", "t", "first", order=(1, 0))) is False
    assert left(_said("a", "t", "second", order=(1, 0))) is True
    assert left(_said("a", "t", "tie")) is None


def test_disputes_worst_first() -> None:
    work = [_said("a", "t1", "first"), _said("b", "t1", "second"), _said("a", "t2", "tie"), _said("b", "t2", "tie")]
    work += [_said("a", "t3", "first"), _said("b", "t3", "first"), _said("c", "t3", "tie")]
    assert [(d.task_id, round(d.disagreement, 3), d.votes) for d in disputes(work, 1.0)] == [("t1", 1.0, 2), ("t3", 0.667, 3)]
    assert len(disputes(work, 1.0, most=1)) == 1


def test_cycles_by_majority_and_by_prompt() -> None:
    tasks = {"ab": _task("ab", a="a", b="b"), "bc": _task("bc", a="b", b="c"), "ca": _task("ca", a="c", b="a")}
    circle = [_said("x", t, "first") for t in tasks]
    assert [c.texts for c in cycles(circle, tasks)] == [("a", "b", "c")]
    assert [c.texts for c in cycles([_said("x", t, "second") for t in tasks], tasks)] == [("a", "c", "b")]
    assert cycles([*circle, _said("y", "ca", "second")], tasks) == ()  # even: no majority
    assert cycles([*circle[:2], _said("x", "ca", "tie")], tasks) == ()
    apart = {**tasks, "ca": _task("ca", prompt="other", a="c", b="a")}
    assert cycles(circle, apart) == ()


def test_scores_have_no_side() -> None:
    j = Judgement("e", "t", "a", "work", Scores(0, {"x": 1.0}), (0,), "v1", "2026-01-01T00:00:00Z")
    assert left(j) is None
