"""The short way of votes and items: what goes by it is answered as the routes answer, and what it does not know goes on to them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from web_tools import ADDRESS, FIRST, Person, Site

from keel.web import app as app_module
from keel.web.app import make_app
from keel.web.settings import Limits

JSON = {"content-type": "application/json"}


@pytest.fixture
def both(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Site, Site]:
    """Equal sites; the second one has no short way."""
    tight = Limits(calls=(60.0, 1.0))
    short = make_site(12, limits=tight)
    short.client().get("/login")  # the stack is made at the first request
    monkeypatch.setattr(app_module, "Short", lambda app, state: app)
    long = make_site(12, limits=tight)
    long.client().get("/login")
    return short, long


def seen(answer: Any) -> tuple[int, str, str | None, Any]:
    """All of an answer that does not hang on the database's key and the time."""
    told = answer.json()
    for item in told.get("items", []) if isinstance(told, dict) else []:
        del item["handle"], item["until"]
    return answer.status_code, answer.headers["content-type"], answer.headers.get("retry-after"), told


BODIES: dict[str, Any] = {
    "as it should be": {"strength": 0.5, "reason": "clear", "active_ms": 900},
    "sent again": {"strength": 0.5, "reason": "clear", "active_ms": 900},
    "sent again with another answer": {"answer": {"type": "choice", "chosen": "second"}},
    "an unknown field": {"colour": "red"},
    "a strength above 1": {"strength": 1.5},
    "a strength that is text": {"strength": "0.5"},
    "a time that is no whole number": {"active_ms": 900.5},
    "no such handle": {"handle": "0" * 32},
    "a handle that is no text": {"handle": 5},
    "an event id with a space": {"event_id": "with a space"},
    "an answer of another kind": {"answer": {"type": "ranks", "buckets": [[0], [1]]}},
    "an unknown answer": {"answer": {"type": "choice", "chosen": "third"}},
    "no answer": {"answer": None},
    "a strength that is not a number": {"strength": float("nan")},
    "an endless answer": {"answer": {"type": "choice", "chosen": "first", "strength": float("inf")}},
    "half a character": {"reason": "\ud800"},
    "replaces nothing": {"event_id": "event-replaces", "replaces": "nothing-there"},
}


def test_votes_are_answered_alike_by_both_ways(both: tuple[Site, Site]) -> None:
    said: list[list[Any]] = []
    for site in both:
        ann = site.person()
        handle = ann.items(1)["items"][0]["handle"]
        known = {"event_id": "event-0001", "handle": handle, "answer": FIRST}
        posts = [json.dumps({**known, **more}) for more in BODIES.values()]
        posts += ["", "{", "[]", "null", posts[0][:-1], f"[{posts[0]}]", posts[0].replace("{", '{"strength": 0.1, ', 1)]
        mine = {**JSON, "x-csrf": ann.csrf}
        here = [ann.client.post("/api/judgements", content=text, headers=mine) for text in posts]
        for kind in ("text/plain", "application/json; charset=utf-8", "application/x-www-form-urlencoded"):
            here.append(ann.client.post("/api/judgements", content=posts[0], headers={**mine, "content-type": kind}))
        here += [ann.client.post("/api/judgements", content=posts[0], headers=JSON), ann.client.get("/api/judgements")]
        here.append(ann.client.post("/api/judgements", content=posts[0], headers={**mine, "origin": "https://elsewhere.example"}))
        here += [site.client().post("/api/judgements", content=text, headers=mine) for text in (posts[0], "{")]
        said.append([seen(answer) for answer in here])
    assert said[0] == said[1]
    assert [s[0] for s in said[0][:3]] == [200, 200, 409]
    assert {200, 400, 401, 403, 405, 409} <= {s[0] for s in said[0]}


QUERIES = ("", "?n=1", "?n=3", "?n=0", "?n=-1", "?n=x", "?n=", "?n=03", "?n=3.0", "?n=1&n=2", "?n=99", "?n=99999999", "?m=3", "?n=%33")


def test_items_are_given_alike_by_both_ways(both: tuple[Site, Site]) -> None:
    said: list[list[Any]] = []
    for site in both:
        ann = site.person()
        paths = [f"/api/campaigns/{name}/items" for name in ("shop", "none", "sh%6Fp", "a%2Fb", "", "%20")]
        here = [ann.get(paths[0] + query) for query in QUERIES] + [ann.get(path) for path in paths]
        here += [site.client().get(paths[0]), ann.client.post(paths[0], headers={"x-csrf": ann.csrf})]
        here += [ann.get(paths[0] + "?n=1") for _ in range(60)]  # too many calls
        said.append([seen(answer) for answer in here])
    assert said[0] == said[1]
    assert {200, 400, 401, 403, 404, 405, 429} <= {s[0] for s in said[0]}


def test_the_usual_calls_never_reach_the_long_way(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(6)
    ann = site.person()

    async def nobody(*_: Any) -> None:
        raise AssertionError("it went the long way")

    monkeypatch.setattr(FastAPI, "build_middleware_stack", lambda self: nobody)
    alone = TestClient(make_app(site.store, site.app.state.kit.settings), ADDRESS, cookies=ann.client.cookies)
    quick = Person(alone, "ann", ann.csrf)
    for item in quick.items(3)["items"]:
        assert quick.vote(item["handle"]).json() == {"stored": True, "late": False}
    assert site.store.progress("shop")["votes"] == 3
    with pytest.raises(AssertionError, match="long way"):
        quick.get("/api/me")


def test_what_nobody_foresaw_is_told_and_has_the_headers(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(2)
    ann = site.person()
    monkeypatch.setattr(site.app.state.kit.store, "giving", lambda *_: 1 / 0)
    for path in ("/api/campaigns/shop/items", "/api/campaigns/shop/items?n=02"):  # the short way, and the long one
        answer = ann.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server")
        assert "script-src 'self';" in answer.headers["content-security-policy"]
