"""Critics and revisers behind a server: the same journal, price and budget as judges."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import Server, completion
from served import Knowing
from writers import asked, banned, constitution, says

from keel.critique.ask import Ask, critique_of
from keel.critique.templates import load_template
from keel.judges.config import EndpointConfig

pytest.importorskip("httpx")
PRINCIPLE = constitution(banned("no_red", "red")).principles[0]


def writer(server: Server, tmp_path: Path, temperature: float = 0.0, **more: object):  # type: ignore[no-untyped-def]
    from keel.critique.endpoint import EndpointWriter

    base = {"url": server.url, "model": "m", "journal": str(tmp_path / "calls.sqlite"), "attempts": 1, "max_tokens": 50}
    config = EndpointConfig.model_validate({**base, "price": {"read": 1e4, "written": 1e4}, **more})
    return EndpointWriter("far", config, {k: load_template(f"{k}_en") for k in ("critique", "revision")}, temperature)  # type: ignore[arg-type]


def ask(kind: str = "critique", answer: str = "a red tent", **more: object) -> Ask:
    return Ask(kind, asked(), answer, PRINCIPLE, "It says red." if kind == "revision" else "", **more)  # type: ignore[arg-type]


def test_what_is_sent_and_what_comes_back(server: Server, tmp_path: Path) -> None:
    server.reply = Knowing()
    found = writer(server, tmp_path, 0.7).write([ask(), ask("revision"), ask("revision", sample=1), ask(answer="a tent")])
    assert critique_of(found[0].text).violates
    assert [w.text for w in found[1:3]] == ["a green tent"] * 2
    assert not critique_of(found[3].text).violates
    assert [w.cost for w in found] == pytest.approx([1.2, 1.1, 1.1, 1.2])
    assert {b["temperature"] for b in server.bodies} == {0.7}
    assert sum("response_format" in b for b in server.bodies) == 2


def test_nothing_is_paid_twice(server: Server, tmp_path: Path) -> None:
    server.reply = Knowing()
    asks = [ask(), ask("revision"), ask("revision", sample=1)]
    before = writer(server, tmp_path).write(asks)
    again = writer(server, tmp_path).write(asks)
    assert len(server.bodies) == 3
    assert [w.text for w in again] == [w.text for w in before]
    assert [(w.cost, w.made) for w in again] == [(0.0, False)] * 3
    assert writer(server, tmp_path).price(asks) == 0.0
    writer(server, tmp_path, 0.5).write(asks)  # other parameters are another call
    assert len(server.bodies) == 6


@pytest.mark.parametrize("reply", ["It violates it.", "", says("true"), says(True, 9)])
def test_what_is_no_critique_is_never_kept(server: Server, tmp_path: Path, reply: str) -> None:
    server.reply = lambda body: (200, {}, completion(reply))
    (lost,) = writer(server, tmp_path).write([ask()])
    assert lost.error.startswith("reply: ")
    assert lost.cost == pytest.approx(1.01)
    server.reply = Knowing()
    (found,) = writer(server, tmp_path).write([ask()])
    assert critique_of(found.text).violates


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_half_a_revision_is_none(server: Server, tmp_path: Path, finish: str) -> None:
    def cut(body: object) -> tuple[int, dict[str, str], object]:
        reply = completion("a green tent with")
        reply["choices"][0]["finish_reason"] = finish
        return 200, {}, reply

    server.reply = cut
    (lost,) = writer(server, tmp_path).write([ask("revision")])
    assert lost.error.startswith(f"reply: it has no end ({finish}; max_tokens is 50")
    assert lost.cost == pytest.approx(1.01)  # paid all the same
    server.reply = Knowing()
    assert writer(server, tmp_path).write([ask("revision")])[0].text == "a green tent"


def test_a_budget_ends_it(server: Server, tmp_path: Path) -> None:
    server.reply = Knowing()
    found = writer(server, tmp_path, budget=2.0, concurrency=1).write([ask(answer=f"a red tent {i}") for i in range(5)])
    assert [bool(w.error) for w in found] == [False, False, True, True, True]
    assert found[-1].error.startswith("budget: ")
    assert not found[-1].made
    assert len(server.bodies) == 2


def test_a_price_before_the_first_call(server: Server, tmp_path: Path) -> None:
    asks = [ask(), ask("revision")]
    price = writer(server, tmp_path).price(asks)
    assert price is not None
    assert price > 2 * 50 * 1e4 / 1e6  # at least the longest replies
    assert server.bodies == []
    assert writer(server, tmp_path, price={}).price(asks) is None
