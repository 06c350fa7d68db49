"""Jobs that wait share a transaction: what fails fails alone, event loops are woken once, and a vote stays a handful of statements."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection

from keel.feedback import schema
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.sql import driver_of, run, run_all
from keel.types import Annotator, Candidate, Choice, Message, Prompt, Task

ADD = sqlalchemy.insert(schema.setting)
NAMES = sqlalchemy.select(schema.setting.c.name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/f.db") as made:
        yield made


def adding(name: str) -> Callable[[Connection], str]:
    def job(c: Connection) -> str:
        run(c, ADD, name=name, value="1")
        return name

    return job


def names(store: Store) -> set[str]:
    return {row.name for row in store.read(lambda c: run(c, NAMES))} - {"secret"}


def test_a_loop_is_woken_once_a_transaction_and_one_job_fails_alone(store: Store) -> None:
    """All wait behind one that holds the writer. Whoever gave up waiting does not disturb the others; their job is done all the same."""

    async def all_at_once() -> tuple[list[Any], int]:
        loop, gate, woken = asyncio.get_running_loop(), threading.Event(), [0]
        plain = loop.call_soon_threadsafe

        def counted(*args: Any, **more: Any) -> Any:
            woken[0] += 1
            return plain(*args, **more)

        store.write(lambda c: gate.wait(60))
        waiting = [store.write_async(adding(name)) for name in ("a", "b", "a", "c", "d")]
        waiting[3].cancel()
        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        gate.set()
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30), woken[0]

    found, woken = asyncio.run(all_at_once())
    assert [found[i] for i in (0, 1, 4)] == ["a", "b", "d"]
    assert isinstance(found[2], sqlalchemy.exc.IntegrityError)
    assert isinstance(found[3], asyncio.CancelledError)
    assert woken == 1
    assert names(store) == {"a", "b", "c", "d"}


def test_a_loop_that_is_gone_does_not_stop_the_writer(store: Store) -> None:
    gate, began = threading.Event(), threading.Event()

    async def leave() -> None:
        store.write(lambda c: (began.set(), gate.wait(60)))
        store.write_async(adding("kept"))

    asyncio.run(leave())
    began.wait(60)
    gate.set()
    store.write(adding("next")).result()
    assert names(store) == {"kept", "next"}


def test_reads_of_many_share_a_transaction_and_see_what_was_acknowledged(store: Store) -> None:
    async def look() -> list[Any]:
        await store.write_async(adding("new"))
        return await asyncio.gather(*(store.read_async(lambda c: len(run(c, NAMES).all())) for _ in range(20)))

    assert asyncio.run(look()) == [2] * 20
    assert store.reader.transactions <= 20


def test_what_the_driver_refuses_is_an_error_of_the_store_and_undone(store: Store) -> None:
    """By the quick ways too, which go past SQLAlchemy: the server tells a busy database from a mistake by the class of its error."""
    twice = [(ADD, {"name": "x", "value": "1"})] * 2
    for job in (lambda c: run_all(c, twice), lambda c: [run(c, *step[:1], **step[1]) for step in twice]):
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            store.write(job).result()
    assert names(store) == set()
    with pytest.raises(KeyError):
        store.write(lambda c: run(c, ADD, name="y")).result()  # a parameter that is missing is not NULL


def test_a_connection_that_was_lost_is_made_again(store: Store) -> None:
    def lose(c: Connection) -> None:
        driver_of(c).close()
        adding("lost")(c)

    with pytest.raises(sqlalchemy.exc.DBAPIError):
        store.write(lose).result()
    store.write(adding("found")).result()
    assert names(store) == {"found"}


def test_a_vote_and_items_take_few_statements(store: Store) -> None:
    """What a vote costs is the number of its statements. Counted by the driver, those that begin and end a transaction included."""
    store.add_campaign(Campaign("c", 2, "pairwise", "v1", gold_share=0.1, repeat_share=0.05))
    pair = (Candidate("a", "one"), Candidate("b", "two"))
    store.add_tasks("c", [Task(f"t{i}", Prompt(f"p{i}", (Message("user", "?"),)), pair, "pairwise", "v1") for i in range(60)])
    for name in ("a", "b"):
        store.add_annotator(Annotator(name, "person"))
        store.next_items(name, "c", 1)
    said: list[str] = []
    store.write(lambda c: driver_of(c).set_trace_callback(said.append)).result()
    votes, asked = list[int](), list[int]()
    for round_ in range(6):
        for name in ("a", "b"):
            said.clear()
            items = store.next_items(name, "c", 5)
            asked.append(len(said))
            for item in items:
                said.clear()
                store.answer(name, item.handle, f"{name}-{round_}-{item.handle}", Choice("first"))
                votes.append(len(said))
    assert min(votes) <= 8, "BEGIN, the lease, what is known, four writes, COMMIT"
    assert max(votes) <= 10, "and for an item that is full: its counts and its campaign, to see whether people disagree"
    assert sum(asked) / len(asked) <= 30, f"five items: two writes each, and what is known of person, campaign and items: {asked}"
