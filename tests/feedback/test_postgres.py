"""The same store on a real PostgreSQL server; skipped, with the reason, where none can be started."""

from __future__ import annotations

import random
import runpy
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import select

from keel.core.errors import ConfigError
from keel.feedback import migrate, schema, snapshots
from keel.feedback.campaigns import Campaign, ConflictError
from keel.feedback.db import Store
from keel.types import Annotator, Candidate, Choice, Message, Prompt, Task

SERVERS = runpy.run_path(str(Path(__file__).with_name("servers.py")))
pytestmark = pytest.mark.skipif(bool(SERVERS["why_not"]()), reason=SERVERS["why_not"]())
PEOPLE = "abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with SERVERS["server"]() as url:
        yield url


@pytest.fixture
def url(server: str) -> Iterator[str]:
    yield server
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(server).set(drivername="postgresql+psycopg"))
    with engine.begin() as c:
        c.exec_driver_sql("DROP SCHEMA public CASCADE")
        c.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


def make_task(i: int) -> Task:
    return Task(f"t{i}", Prompt(f"p{i}", (Message("user", "?"),)), (Candidate("a", "eins"), Candidate("b", "二")), "pairwise", "v1")


def fill(store: Store, tasks: int, wanted: int = 2) -> None:
    store.add_campaign(Campaign("c", wanted, "pairwise", "v1"))
    store.add_tasks("c", [make_task(i) for i in range(tasks)])
    for name in PEOPLE:
        store.add_annotator(Annotator(name, "person"))


def test_the_tables_are_those_that_the_code_knows(url: str) -> None:
    with Store(url) as store:
        assert store.read(migrate.version) == migrate.VERSION
        look = store.read(lambda c: {n: {x["name"] for x in sqlalchemy.inspect(c).get_columns(n)} for n in schema.METADATA.tables})
        assert look == {name: set(table.columns.keys()) for name, table in schema.METADATA.tables.items()}
    with Store(url) as again:
        assert again.read(migrate.version) == migrate.VERSION


@pytest.mark.parametrize("what", ["UPDATE judgement SET seq = 9", "DELETE FROM judgement", "TRUNCATE judgement CASCADE"])
def test_judgements_are_never_changed(url: str, what: str) -> None:
    with Store(url) as store:
        fill(store, 1)
        (item,) = store.next_items("a", "c")
        store.answer("a", item.handle, "e", Choice("first"))
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="are never changed"):
            store.write(lambda c: c.exec_driver_sql(what)).result()
        assert len(store.judgements("c")) == 1


def test_conflicts_corrections_accounts_and_snapshots(url: str) -> None:
    with Store(url) as store:
        fill(store, 2)
        one, _ = store.next_items("a", "c", 2)
        receipt = store.answer("a", one.handle, "e", Choice("first"))
        assert store.answer("a", one.handle, "e", Choice("first")) == receipt
        with pytest.raises(ConflictError):
            store.answer("a", one.handle, "e", Choice("tie"))
        store.answer("a", one.handle, "f", Choice("tie"), replaces="e")
        found = snapshots.take(store, "c")
        assert found.events == ("f",)
        assert snapshots.take(store, "c") == found
        store.add_account("ann", "password 1")
        token = store.sign_in("ann", "password 1")
        assert token
        assert store.account_of(token) == store.account("ann")
        store.retract(annotator="a")
        assert store.progress("c")["votes"] == 0


def test_two_processes_stores_share_the_items(url: str) -> None:
    """Two writers on one database, all people at once: each item n different people, nobody twice."""
    with Store(url) as one, Store(url) as two:
        fill(one, 12)
        errors: list[BaseException] = []

        def person(name: str, store: Store) -> None:
            draw = random.Random(name)
            try:
                while items := store.next_items(name, "c", draw.randint(1, 3)):
                    for item in items:
                        store.answer(name, item.handle, f"{name}:{item.handle}", Choice("first"))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=person, args=(name, two if i % 2 else one)) for i, name in enumerate(PEOPLE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert one.progress("c") == {
            "items": 12,
            "done": 12,
            "open": 0,
            "votes": 24,
            "leases": 0,
            "disputed": 0,
            "by_judge": 0,
            "missing": 0,
        }
        votes = one.read(lambda c: c.execute(select(schema.head.c.task, schema.head.c.annotator)).all())
        assert set(Counter(votes).values()) == {1}
        assert set(Counter(task for task, _ in votes).values()) == {2}


def test_a_foreign_database_is_refused(url: str) -> None:
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as c:
        c.exec_driver_sql("CREATE TABLE songs (x INTEGER)")
    engine.dispose()
    with pytest.raises(ConfigError, match="other tables"):
        Store(url)
