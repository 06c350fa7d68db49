"""The rule by which an interval decides, and how many more samples it asks for."""

from __future__ import annotations

import math
import random

import pytest

from keel.evaluate.statistics import Interval
from keel.release.gates.verdict import Verdict, cannot_tell, decide, median_of, whole


@pytest.mark.parametrize(
    ("low", "high", "limits", "state"),
    [
        (0.01, 0.02, {"at_most": 0.02}, "pass"),
        (0.01, 0.03, {"at_most": 0.02}, "cannot_tell"),
        (0.021, 0.03, {"at_most": 0.02}, "fail"),
        (0.5, 0.9, {"at_least": 0.5}, "pass"),
        (0.4, 0.9, {"at_least": 0.5}, "cannot_tell"),
        (0.1, 0.4, {"at_least": 0.5}, "fail"),
        (5, 9, {"at_least": 4, "at_most": 10}, "pass"),
        (5, 11, {"at_least": 4, "at_most": 10}, "cannot_tell"),
        (11, 12, {"at_least": 4, "at_most": 10}, "fail"),
    ],
)
def test_an_interval_decides(low: float, high: float, limits: dict[str, float], state: str) -> None:
    assert decide(Interval((low + high) / 2, low, high, 50), **limits).state == state


def test_few_samples_decide_nothing() -> None:
    said = decide(Interval(0.0, 0.0, 0.0, 3), at_most=0.02, fewest=10)
    assert (said.state, said.more, said.why) == ("cannot_tell", 7, ("too_few",))
    assert decide(None, at_most=1).state == decide(Interval(math.nan, 0, 0, 99), at_most=1).state == "cannot_tell"


def test_how_many_more() -> None:
    """The half-width 0.01 must become 0.005: four times as many."""
    assert decide(Interval(0.02, 0.01, 0.03, 100), at_most=0.025).more == 300
    assert decide(Interval(0.02, 0.01, 0.03, 100), at_most=0.02).more is None, "on the limit no number would do"


def test_with_as_many_more_samples_the_interval_is_on_one_side() -> None:
    draw = random.Random(5)
    for _ in range(300):
        mean, half, n, limit = draw.uniform(-1, 1), draw.uniform(0.01, 1), draw.randint(10, 500), draw.uniform(-1, 1)
        name = draw.choice(["at_most", "at_least"])
        said = decide(Interval(mean, mean - half, mean + half, n), **{name: limit})
        if said.state != "cannot_tell":
            continue
        assert said.more is not None
        narrow = half * math.sqrt(n / (n + said.more))
        again = decide(Interval(mean, mean - narrow * 0.999, mean + narrow * 0.999, n + said.more), **{name: limit})
        assert again.state != "cannot_tell", (mean, half, n, limit)
        wide = half * math.sqrt(n / max(1, n + said.more - 2))
        assert said.more <= 2 or decide(Interval(mean, mean - wide * 1.001, mean + wide * 1.001, n), **{name: limit}).state == "cannot_tell"


def test_all_gates_together() -> None:
    assert whole([]) == "cannot_tell"
    assert whole(["pass", "pass"]) == "pass"
    assert whole(["pass", "cannot_tell"]) == "cannot_tell"
    assert whole(["cannot_tell", "fail"]) == "fail"
    assert cannot_tell("missing", path="x").to_json() == Verdict("cannot_tell", why=("missing",), facts={"path": "x"}).to_json()


def test_the_median_s_interval() -> None:
    """Ranks from the tables of the binomial: n = 6: 1 and 6; n = 20: 6 and 15."""
    assert median_of([3, 1, 2, 6, 5, 4]) == Interval(3.5, 1, 6, 6)
    assert median_of(range(1, 21)) == Interval(10.5, 6, 15, 20)
    assert not math.isfinite(median_of([1, 2, 3, 4, 5]).high), "five values hold no interval of 95%"


def test_the_median_s_interval_covers() -> None:
    draw = random.Random(1)
    hits = sum(low <= math.log(2) <= high for low, high in (_exponential(draw) for _ in range(2000)))
    assert hits / 2000 >= 0.95


def _exponential(draw: random.Random) -> tuple[float, float]:
    found = median_of([draw.expovariate(1) for _ in range(9)])
    return found.low, found.high
