"""The server while people work, kill -9 and other processes that write: what was acknowledged is stored, once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from labs.bench.annotate import measure


@pytest.mark.slow
def test_killed_three_times_under_load_nothing_is_lost_or_doubled() -> None:
    """The benchmark kills eight times; the people send the same events again until somebody answers."""
    found = measure("killed", number=8, seconds=0.0, kills=3, items=1200)
    assert found["kills"] == 3
    assert found["acknowledged"] > 100
    assert found["resent"] > 0  # they were cut off
    assert (found["lost"], found["doubled"], found["refused"]) == (0, 0, {})


@pytest.mark.stages
def test_people_at_work_are_answered() -> None:
    """Few items: with more, a quick machine lets each person call more often than the server allows an account."""
    # A thread: where a browser is open in this process, its event loop is too.
    found = ThreadPoolExecutor(1).submit(measure, "saturated", number=8, seconds=30.0, kills=0, items=120).result()
    assert found["acknowledged"] >= 3 * 120  # all of it, three people an item
    assert (found["lost"], found["doubled"], found["refused"], found["counts_differ"]) == (0, 0, {}, 0)


def _imported(number: int, items: int, megabytes: float) -> dict[str, Any]:
    # A thread: where a browser is open in this process, its event loop is too.
    return ThreadPoolExecutor(1).submit(measure, "importing", number, items=items, megabytes=megabytes).result()


@pytest.mark.stages
def test_tasks_come_in_and_everything_goes_out_while_people_vote() -> None:
    """Other processes write and read the same database: nobody is refused, nothing is lost, all tasks arrive."""
    found = _imported(number=6, items=400, megabytes=0.3)
    assert found["acknowledged"] > 0
    assert found["tasks"] > 400 + 100 + 200
    assert (found["lost"], found["doubled"], found["refused"], found["counts_differ"]) == (0, 0, {}, 0)


@pytest.mark.slow
def test_thirty_megabytes_come_in_while_fifty_people_vote() -> None:
    found = _imported(number=50, items=8000, megabytes=30.0)
    assert found["acknowledged"] > 0
    assert (found["lost"], found["doubled"], found["refused"], found["counts_differ"]) == (0, 0, {}, 0)
