"""The queue in front of a model: what is put together, what is refused, who is told what. Nothing here depends on how fast it goes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from keel.serve.batcher import Batcher, FullError, LateError, StoppedError

WAIT = 30.0  # seconds after which a test that hangs fails


class Gate:
    """A scorer that stops until it is let through, and writes down what it was given."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        self.seen: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.seen.append(list(items))
        self.entered.release()
        assert self.open.wait(WAIT)
        return [10 * x for x in items]


def asking(batcher: Batcher[int, int], items: list[int], timeout: float = WAIT) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def ask() -> None:
        try:
            found.append(batcher.ask(items, timeout))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


def until(condition) -> None:
    """Wait for something that must come."""
    for _ in range(int(WAIT * 100)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def gate():
    made: list[Batcher] = []
    gate = Gate()

    def make(batch: int = 4, waiting: int = 8) -> Batcher[int, int]:
        made.append(Batcher(gate, batch, waiting))
        return made[-1]

    gate.batcher = make
    yield gate
    gate.open.set()
    for batcher in made:
        batcher.stop()


def test_what_waits_goes_through_together_and_comes_back_to_whom_it_belongs(gate) -> None:
    batcher = gate.batcher()
    asked = [asking(batcher, [1])]
    assert gate.entered.acquire(timeout=WAIT)
    for i, items in enumerate(([2, 3], [4], [5, 6]), 2):
        asked.append(asking(batcher, items))
        until(lambda n=i: len(batcher._jobs) == n - 1)
    gate.open.set()
    for thread, _ in asked:
        thread.join(WAIT)
    assert [found for _, found in asked] == [[[10]], [[20, 30]], [[40]], [[50, 60]]]
    assert gate.seen == [[1], [2, 3, 4], [5, 6]], "at most four at a time, whole requests"
    assert (batcher.scored, batcher.waiting) == (6, 0)


def test_a_request_larger_than_a_pass_is_cut(gate) -> None:
    gate.open.set()
    assert gate.batcher().ask([1, 2, 3, 4, 5, 6], WAIT) == [10, 20, 30, 40, 50, 60]
    assert gate.seen == [[1, 2, 3, 4], [5, 6]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(gate) -> None:
    batcher = gate.batcher(waiting=3)
    first = asking(batcher, [1, 2])
    assert gate.entered.acquire(timeout=WAIT)
    with pytest.raises(FullError):
        batcher.ask([3, 4], WAIT)
    second = asking(batcher, [5])
    until(lambda: batcher.waiting == 3)
    gate.open.set()
    for thread, _ in (first, second):
        thread.join(WAIT)
    assert second[1] == [[50]]
    assert batcher.ask([7, 8, 9], WAIT) == [70, 80, 90]
    with pytest.raises(FullError):
        batcher.ask([1, 2, 3, 4], WAIT)
    assert (batcher.refused, batcher.waiting) == (2, 0)


def test_who_gives_up_costs_no_pass(gate) -> None:
    batcher = gate.batcher()
    first = asking(batcher, [1])
    assert gate.entered.acquire(timeout=WAIT)
    with pytest.raises(LateError):
        batcher.ask([2], 0.01)
    gate.open.set()
    first[0].join(WAIT)
    assert batcher.ask([3], WAIT) == [30]
    assert [2] not in gate.seen
    assert (batcher.abandoned, batcher.waiting) == (1, 0)


def test_a_failure_is_told_and_ends_nothing() -> None:
    def score(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise RuntimeError("unlucky")
        return list(items)

    batcher = Batcher(score, 4, 8)
    with pytest.raises(RuntimeError, match="unlucky"):
        batcher.ask([13], WAIT)
    assert batcher.ask([1], WAIT) == [1]
    assert batcher.alive
    batcher.stop()
    assert not batcher.alive
    with pytest.raises(StoppedError):
        batcher.ask([1], WAIT)


def test_a_scorer_that_loses_one_is_an_error_and_not_a_shift() -> None:
    batcher = Batcher(lambda items: list(items)[:-1], 4, 8)
    with pytest.raises(AssertionError, match="1 answers to 2 items"):
        batcher.ask([1, 2], WAIT)
    batcher.stop()


def test_who_waits_when_it_stops_is_told(gate) -> None:
    batcher = gate.batcher()
    first = asking(batcher, [1])
    assert gate.entered.acquire(timeout=WAIT)
    second = asking(batcher, [2])
    until(lambda: batcher.waiting == 2)
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    second[0].join(WAIT)
    assert isinstance(second[1][0], StoppedError)
    gate.open.set()
    stopping.join(WAIT)
    first[0].join(WAIT)
    assert first[1] == [[10]]
