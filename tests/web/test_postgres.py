"""The app over a real PostgreSQL server: what annotators ask and send, leases that end, kills, a database that goes away."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from test_api import (  # noqa: F401  (the same tests, with the sites of this module)
    test_a_batch_goes_one_by_one,
    test_a_lease_ends_and_the_item_goes_to_another_person,
    test_a_paused_campaign_gives_nothing_and_ends_nothing,
    test_an_item_and_its_answer,
    test_disputed_items_go_to_adjudicators,
    test_people_at_once_get_each_item_as_often_as_wanted,
    test_the_code_is_for_answers_that_stand,
    test_the_same_event_again_and_another_under_its_name,
    test_training_teaches_in_places_of_the_screen,
    test_undo_is_a_new_event,
)
from test_manage import test_measures_follow_new_votes_and_retractions  # noqa: F401

from keel.feedback.sql import make_url as parsed
from labs.bench.annotate import measure

SERVERS = runpy.run_path(str(Path(__file__).parents[1] / "feedback" / "servers.py"))
pytestmark = [pytest.mark.stages, pytest.mark.skipif(bool(SERVERS["why_not"]()), reason=SERVERS["why_not"]())]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with SERVERS["server"]() as url:
        yield url


def order(url: str, statement: str) -> list[Any]:
    """One statement outside of transactions; its rows."""
    engine = sqlalchemy.create_engine(parsed(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as c:
        found = c.exec_driver_sql(statement)
        rows = list(found.all()) if found.returns_rows else []
    engine.dispose()
    return rows


def cut(url: str) -> None:
    """End all other connections, as a restart does."""
    order(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'")


@pytest.fixture
def make_url(server: str) -> Iterator[Callable[[int], str]]:
    """The database, empty again after each test."""
    yield lambda _: server
    cut(server)
    order(server, "DROP SCHEMA public CASCADE")
    order(server, "CREATE SCHEMA public")


def test_it_is_postgresql(make_site: Any) -> None:
    store = make_site(1).store
    assert store.read(lambda c: c.exec_driver_sql("SELECT version()").scalar()).startswith("PostgreSQL")


def answered(ask: Callable[[], Any]) -> Any:
    """The answer of a call that is made again while the database is busy, as pages do: it never fails in another way."""
    for _ in range(20):
        answer = ask()
        if answer.status_code != 503:
            break
    assert answer.status_code == 200, answer.text
    return answer


def test_a_database_that_goes_away_is_told_and_comes_back(make_site: Any, server: str) -> None:
    """Its connections are cut, as by a restart: the app says 503, and the same event sent again is stored once."""
    site = make_site(4)
    ann = site.person()
    handles = [item["handle"] for item in ann.items()["items"]]
    ann.vote(handles[0])
    for handle in handles[1:]:
        cut(server)
        event = ann.event(handle)
        assert answered(lambda event=event: ann.post("/api/judgements", event)).json()["stored"]
    cut(server)
    assert answered(lambda: ann.get("/api/campaigns/shop/items")).json()["end"]["why"] == "done"
    assert len(site.store.judgements("shop")) == site.store.progress("shop")["votes"] == 4


@pytest.mark.slow
def test_killed_under_load_nothing_is_lost_or_doubled(make_url: Callable[[int], str]) -> None:
    found = measure("killed", number=8, kills=3, items=1200, url=make_url(0))
    assert found["kills"] == 3
    assert found["acknowledged"] > 100
    assert found["resent"] > 0
    assert (found["lost"], found["doubled"], found["refused"], found["counts_differ"]) == (0, 0, {}, 0)
