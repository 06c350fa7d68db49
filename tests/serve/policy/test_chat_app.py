"""The chat page's calls: what they refuse, what they hide, and its texts in both languages."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, finish

from keel.serve.policy.chat_app import catalogue, make_chat_app
from keel.serve.policy.duel import Duel
from keel.serve.policy.frames import About
from keel.serve.policy.server import BodyLimits, Door

SAMPLING = {"max_tokens": 9, "temperature": 0.7, "top_p": 1.0}


def duel_of(votes: Any = None) -> Duel:
    engines = [FakeEngine(words=("A", " says"), about=About("model-a", "t")), FakeEngine(words=("B", " says"), about=About("model-b", "t"))]
    return Duel(engines, SAMPLING, votes)


def client_of(duel: Duel, key: str = "") -> httpx.AsyncClient:
    app = make_chat_app(duel, Door("127.0.0.1", 80, "", BodyLimits(100_000)), key)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=30)


async def ask(client: httpx.AsyncClient, text: str = "Hello") -> tuple[str, list[str]]:
    answer = await client.post("/chat/ask", json={"messages": [{"role": "user", "content": text}]})
    events = [json.loads(x[6:]) for x in answer.text.split("\n\n") if x]
    texts = ["".join(e["text"] for e in events[1:] if e["side"] == side) for side in (0, 1)]
    return events[0]["turn"], texts


def test_sides_are_drawn_anew_and_votes_find_their_model() -> None:
    class Votes:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def vote_on(self, row, models, texts, chosen, order) -> str:
            self.kept.append((models, texts, chosen, order))
            return "e"

    async def run() -> None:
        votes = Votes()
        duel = duel_of(votes)
        seen = set()
        async with client_of(duel) as client:
            assert "model-a" not in (await client.get("/")).text
            for _ in range(40):
                turn, texts = await ask(client)
                assert sorted(texts) == ["A says", "B says"]
                seen.add(texts[0])
                side = "left" if texts[0] == "B says" else "right"
                assert (await client.post("/chat/vote", json={"turn": turn, "vote": side})).json() == {"stored": True}
                again = await client.post("/chat/vote", json={"turn": turn, "vote": side})
                assert (again.status_code, again.json()["error"]["message"]) == (400, "this turn has its vote")
            assert seen == {"A says", "B says"}
            said = (await client.post("/chat/reveal", json={})).json()
        assert (said["models"], said["wins"]) == (["model-a", "model-b"], [0, 40])
        for models, texts, chosen, order in votes.kept:
            assert (models, texts, chosen) == (("model-a", "model-b"), ("A says", "B says"), "second")
            assert sorted(order) == [0, 1]

    finish(run())


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": []}, {"messages": [{"role": "system", "content": "x"}]}, {"messages": [{"role": "user", "content": 1}]}, [], 5],
)
def test_what_is_no_conversation_is_refused(body: Any) -> None:
    async def run() -> int:
        async with client_of(duel_of()) as client:
            return (await client.post("/chat/ask", json=body)).status_code

    assert finish(run()) == 400


def test_a_vote_on_an_answer_that_failed_is_refused() -> None:
    async def run() -> None:
        duel = duel_of()
        duel.engines[1].alive = False  # type: ignore[misc]
        async with client_of(duel) as client:
            turn, _ = await ask(client)
            said = await client.post("/chat/vote", json={"turn": turn, "vote": "left"})
            assert (said.status_code, "missing" in said.json()["error"]["message"]) == (400, True)
            assert (await client.post("/chat/vote", json={"turn": "no", "vote": "left"})).status_code == 400

    finish(run())


def test_elsewhere_the_link_opens_it_and_nothing_else_does() -> None:
    async def run() -> list[int]:
        async with client_of(duel_of(), key="k" * 20) as client:
            closed = [(await client.get(p)).status_code for p in ("/", "/?key=wrong")]
            closed.append((await client.post("/chat/reveal", json={})).status_code)
            opened = [(await client.get(f"/?key={'k' * 20}")).status_code, (await client.post("/chat/reveal", json={})).status_code]
            return closed + opened

    assert finish(run()) == [401, 401, 401, 200, 200]


def test_both_languages_say_the_same_things() -> None:
    en, zh = catalogue("en"), catalogue("zh")
    assert list(en) == list(zh)
    for key, text in en.items():
        assert holes(text) == holes(zh[key]), key


def holes(text: str) -> set[str]:
    """The names in braces."""
    return {part.split("}")[0] for part in text.split("{")[1:]}
