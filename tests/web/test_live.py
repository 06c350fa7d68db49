"""Pages that are kept up to date, by events; and the counts behind them."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from web_tools import PASSWORD

from keel.web import manage
from keel.web.board import Board, Measurer
from keel.web.kit import Kit
from keel.web.settings import Limits


def _caller(site: Any) -> Any:
    site.store.add_account("boss", PASSWORD, "manager")
    token = site.store.sign_in("boss", PASSWORD)
    return token


def test_a_stream_tells_what_changed_and_ends_with_the_session(make_site: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(manage, "TICK", 0.0)
    site = make_site(1)
    kit: Kit = site.app.state.kit
    token = _caller(site)

    async def run() -> None:
        board = Board(kit)
        caller = await kit.caller(token)
        assert caller is not None
        stream = manage._stream("shop", caller, kit, board)
        first = json.loads((await anext(stream)).removeprefix("data: "))
        assert (first["counts"]["paused"], kit.streams) == (False, 1)
        site.store.update_campaign("shop", paused=True)
        board.soon("shop")
        said = first
        for _ in range(100):  # measures come in between
            said = json.loads((await anext(stream)).removeprefix("data: "))
            if said["counts"]["paused"]:
                break
        assert said["counts"]["paused"]
        site.store.sign_out(token)
        kit.forget_sessions()
        rest = [line async for line in stream]
        assert len(rest) <= 1
        assert kit.streams == 0

    asyncio.run(run())


def test_a_stream_ends_when_the_server_does(make_site: Any) -> None:
    site = make_site(1)
    kit: Kit = site.app.state.kit
    token = _caller(site)

    async def run() -> None:
        caller = await kit.caller(token)
        assert caller is not None
        stream = manage._stream("shop", caller, kit, Board(kit))
        await anext(stream)
        kit.stopping.set()
        assert [line async for line in stream] == []

    asyncio.run(run())


def test_there_are_only_so_many_streams(make_site: Any) -> None:
    site = make_site(1, limits=Limits(streams=0))
    boss = site.person("boss", "manager")
    assert boss.get("/api/manage/shop/live").status_code == 429
    assert boss.get("/api/manage/other/live").status_code == 404


def test_measures_that_fail_are_told_in_the_log_and_tried_again(make_site: Any, monkeypatch: Any, caplog: Any) -> None:
    site = make_site(1)
    kit: Kit = site.app.state.kit
    answers: list[Any] = [ValueError("no room"), {"votes": 0}]

    def ask(self: Measurer, store: str, campaign: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Measurer, "ask", ask)

    async def run() -> None:
        board = Board(kit)
        await board.look("shop")
        running = board._of["shop"].running
        assert running is not None
        await running
        assert (await board.look("shop"))["measures"] == {}
        assert len(answers) == 1  # not at once
        site.now[0] += 60.0
        assert (await board.measured("shop"))["measures"] == {"votes": 0}

    asyncio.run(run())
    assert "no room" in caplog.text


def test_what_is_taken_back_elsewhere_is_measured_again(make_site: Any, monkeypatch: Any) -> None:
    """`keel feedback retract` in another process: no event more, and other measures."""
    site = make_site(2)
    kit: Kit = site.app.state.kit
    ann = site.person()
    ann.vote(ann.items()["items"][0]["handle"])
    monkeypatch.setattr(Measurer, "ask", lambda self, store, campaign: {"votes": site.store.progress(campaign)["votes"]})

    async def run() -> None:
        board = Board(kit)
        assert (await board.measured("shop"))["measures"] == {"votes": 1}
        site.store.retract(annotator="ann")
        site.now[0] += 60.0
        assert not (await board.look("shop"))["fresh"]
        assert (await board.measured("shop"))["measures"] == {"votes": 0}
        assert (await board.look("shop"))["fresh"]

    asyncio.run(run())


def test_a_change_during_a_measurement_is_measured_again(make_site: Any, monkeypatch: Any) -> None:
    site = make_site(1)
    kit: Kit = site.app.state.kit
    under_way, go_on, answers = threading.Event(), threading.Event(), [{"n": 1}, {"n": 2}]

    def ask(self: Measurer, store: str, campaign: str) -> Any:
        under_way.set()
        assert go_on.wait(60)
        return answers.pop(0)

    monkeypatch.setattr(Measurer, "ask", ask)

    async def run() -> None:
        board = Board(kit)
        await board.look("shop")
        assert await asyncio.to_thread(under_way.wait, 60)
        board.soon("shop")  # what was measured so far may not know of it
        go_on.set()
        running = board._of["shop"].running
        assert running is not None
        await running
        shown = await board.look("shop")
        assert (shown["measures"], shown["fresh"]) == ({"n": 1}, False)
        assert (await board.measured("shop"))["measures"] == {"n": 2}

    asyncio.run(run())


def test_a_closed_measurer_starts_nothing_and_ends_what_runs(make_site: Any) -> None:
    store, found = make_site(1).store, list[Any]()
    measurer = Measurer()
    url = store.url.render_as_string(hide_password=False)

    def ask() -> None:
        try:
            found.append(measurer.ask(url, "shop"))
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive() and not measurer._running:
        thread.join(0.01)
    measurer.close()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(found[0], ValueError)
    ask()
    assert "closing" in str(found[1])
