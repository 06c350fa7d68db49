"""Measures of single people, by hand and on planted behaviour."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keel.feedback.quality.behaviour import change, chose_left, drift, expected_seconds, longest_run, pattern, sessions, too_fast
from keel.feedback.quality.gold import gold_accuracy, rate, repeats
from keel.feedback.quality.report import people
from keel.feedback.reliability.votes import Votes, from_arrays

CLASSES = ("first", "second", "tie")


def test_wilson_by_hand() -> None:
    r = rate(8, 10)  # Wilson's interval of 8 of 10: 0.490 to 0.943
    assert (r.low, r.high) == pytest.approx((0.4902, 0.9433), abs=2e-4)
    assert math.isnan(rate(0, 0).rate)
    with pytest.raises(ValueError, match="no share"):
        rate(3, 2)


def test_gold_counts_first_votes_on_known_tasks() -> None:
    votes = from_arrays([0, 1, 2, 0], [0, 0, 0, 0], [0, 1, 2, 1], CLASSES, tasks=("a", "b", "c"), repeat_V=[0, 0, 0, 1])
    (found,) = gold_accuracy(votes, {"a": "first", "b": "first", "x": "tie", "c": "unheard of"})
    assert (found.hits, found.n) == (1, 2)


def test_repeats_tell_flips_of_the_order_from_changes_of_mind() -> None:
    # tasks 0..3 twice: same label swapped; other label swapped (same side of the screen); tie then first swapped; other label, not swapped
    votes = from_arrays(
        [0, 1, 2, 3, 0, 1, 2, 3], [0] * 8, [0, 0, 2, 0, 0, 1, 0, 1], CLASSES, side_V=[0, 0, 0, 0, 1, 1, 1, 0], repeat_V=[0] * 4 + [1] * 4
    )
    (found,) = repeats(votes)
    assert (found.same.hits, found.same.n) == (1, 4)
    assert (found.same_swapped.hits, found.same_swapped.n) == (1, 3)
    assert (found.order_flips.hits, found.order_flips.n) == (1, 2)


def test_left_is_a_side_of_the_screen() -> None:
    votes = from_arrays([0, 1, 2, 3, 4], [0] * 5, [0, 0, 1, 2, 0], CLASSES, side_V=[0, 1, 1, 0, -1])
    left, decided = chose_left(votes)
    assert left.tolist() == [True, False, True, False, False]
    assert decided.tolist() == [True, True, True, False, False]


def timed(seconds: list[float], who: list[int], length: list[int]) -> Votes:
    return from_arrays(range(len(who)), who, [0] * len(who), CLASSES, seconds_V=seconds, tasks=len(length))


def test_speed_is_against_others_on_texts_of_that_length() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(20, 400, 300)
    who = np.arange(300) % 3
    seconds = 0.5 * (1 + length) * np.exp(0.1 * rng.normal(size=300)) * np.where(who == 2, 0.1, 1.0)
    votes = timed(seconds.tolist(), who.tolist(), length.tolist())
    expected = expected_seconds(votes, length.astype(np.float64))
    assert expected[who == 2] == pytest.approx(0.5 * (1 + length[who == 2]), rel=0.2)  # learnt from 0 and 1 alone
    fast, known = too_fast(votes, length.astype(np.float64))
    assert known.all()
    assert fast[who == 2].mean() > 0.95
    assert fast[who != 2].mean() < 0.05
    assert np.isnan(expected_seconds(timed([math.nan] * 6, [0] * 6, [1] * 6), np.ones(6))).all()


def test_patterns_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    found = pattern(labels, np.array([True, True, False, False]), np.array([True, True, True, False]))
    assert found.entropy == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert (found.longest_run, found.left.hits, found.left.n) == (3, 2, 3)
    assert found.run_p > 0.3  # two of the four orders have a run of three
    blocks = pattern(np.repeat([0, 1, 0, 1], 25), np.zeros(100, bool), np.zeros(100, bool))
    assert (longest_run(np.array([1])), blocks.longest_run) == (1, 25)
    assert blocks.run_p == pytest.approx(1 / 200)


def test_sessions_and_their_change() -> None:
    at = np.array([0.0, 60, 120, 5000, 5060, 10000])
    assert sessions(at).tolist() == [0, 0, 0, 1, 1, 2]
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(12), 20)
    sold = change(rng.normal(size=240) + 2.0 * (session >= 7), session)
    assert (sold.session, sold.p) == (7, pytest.approx(1 / 500))
    assert sold.after - sold.before == pytest.approx(2.0, abs=0.4)
    moods = [change(rng.normal(size=240) + rng.normal(size=12)[session], session, draws=99, seed=i).p for i in range(100)]
    assert 0.0 <= np.mean(np.array(moods) <= 0.05) <= 0.12  # sessions differ by mood; that is no change of person
    assert change(np.ones(10), np.zeros(10, int)).session == -1


def test_drift_is_a_slope_with_an_interval() -> None:
    rng = np.random.default_rng(1)
    falling = drift(np.linspace(1, 0, 200) + 0.2 * rng.normal(size=200))
    assert falling.low < -1.0 < falling.high < -0.7
    level = drift(rng.normal(size=200))
    assert level.low < 0.0 < level.high
    assert math.isnan(drift(np.ones(5)).slope)


def office(faulty: str, seed: int = 0, tasks: int = 240, count: int = 8) -> Votes:
    """Eight readers, four on each task; the last one is faulty."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, tasks)
    rows = []
    for t in range(tasks):
        for a in [count - 1, *rng.permutation(count - 1)[:3]] if t % 2 else rng.permutation(count - 1)[:4]:
            side = int(rng.integers(0, 2))
            said = int(truth[t]) if rng.random() < 0.75 else int(rng.integers(0, 3))
            seconds = 20.0 * math.exp(0.4 * rng.normal())
            if a == count - 1 and faulty:
                said = {"left": side, "random": int(rng.integers(0, 3)), "fast": int(rng.integers(0, 3))}[faulty]
                seconds *= 0.05 if faulty == "fast" else 1.0
            rows.append((t, int(a), said, side, seconds, float(len(rows))))
    task, who, label, sides, seconds, at = map(list, zip(*rows))
    return from_arrays(task, who, label, CLASSES, side_V=sides, seconds_V=seconds, at_V=at)


@pytest.mark.parametrize(("faulty", "why"), [("left", "always left"), ("random", "ignores the task"), ("fast", "too fast")])
def test_the_faulty_one_is_found_and_nobody_else(faulty: str, why: str) -> None:
    found = people(office(faulty))
    assert [p.annotator for p in found if p.alarm] == ["7"]
    assert found[-1].why == why
    assert 0 < found[-1].alarm <= 100
    assert found[-1].agreement.rate < min(p.agreement.rate for p in found[:-1])


def test_honest_readers_are_left_alone() -> None:
    assert not [p.annotator for seed in range(5) for p in people(office("", seed)) if p.alarm]
    with pytest.raises(ValueError, match="alpha"):
        people(office(""), alpha=1.0)
