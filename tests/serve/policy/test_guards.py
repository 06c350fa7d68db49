"""What a canary is judged by: times and thumbs that say something of the model, and nothing of who reads and clicks."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat, client_of, finish, front_of

from keel.serve.policy.canary import Window
from keel.serve.policy.engine import GoneError
from keel.serve.policy.filters import RuleConfig
from keel.serve.policy.frames import About, Piece
from keel.serve.policy.pace import Pace, per_token_s

CALL = '<tool_call>{"name": "shop", "arguments": {"q": "boots"}}</tool_call>'
TOOL = {"type": "function", "function": {"name": "shop"}}
BOTH = {"store": True, "train": True}


def paced(*pieces: tuple[float, Piece]) -> Pace:
    now = [0.0]
    pace = Pace(lambda: now[0])
    for at, piece in pieces:
        now[0] = at
        pace.add(piece)
    return pace


def test_time_per_token_begins_with_the_first_one() -> None:
    taken, token = Piece("r", prompt_tokens=3), Piece("r", ids=(1,))
    waited = paced((9.0, taken), (50.0, token), (50.5, token), (51.5, Piece("r", ids=(2, 3))), (99.0, Piece("r", end="stop")))
    assert (waited.seconds, waited.tokens) == (1.5, 3)
    text_only = paced((0.0, Piece("r", text="a")), (2.0, Piece("r", text="b")))
    assert per_token_s([waited, text_only]) == 3.5 / 4
    assert per_token_s([paced((1.0, token))]) is None


def test_a_slow_reader_does_not_slow_the_model() -> None:
    async def run() -> None:
        front = front_of(FakeEngine())
        from keel.serve.policy.requests import read_request

        asked = read_request("chat", chat(), "fake", About("fake"), front.config.queue)
        answer = front.begin(asked, "a")
        await answer.accepted()
        while not all(task.done() for task in answer._tasks):
            await asyncio.sleep(0)
        before = answer.outcome(True)
        answer.began -= 1000.0  # so long ago for whoever reads it
        assert (answer.outcome(True), answer.seconds > 999) == (before, True)

    finish(run())


def test_one_answer_has_one_thumb_the_last() -> None:
    window = Window(3)
    for up in (False, False, True, False):
        window.thumb("a", up)
    assert (window.thumbs, window.down) == (1, 1.0)
    for i in range(4):
        window.thumb(str(i), True)
    assert (window.thumbs, window.down) == (3, 0.0)


async def served(client: httpx.AsyncClient, **more: Any) -> str:
    return (await client.post("/v1/chat/completions", json=chat(**more))).json()["id"]


def test_what_is_stored_of_an_answer_is_what_the_model_wrote() -> None:
    async def run() -> None:
        front = front_of(
            FakeEngine(words=("Let me see. ", CALL), about=About("fake", "t", tool_form="hermes")), feedback={"store": "sqlite://"}
        )
        async with client_of(front) as client:
            said = {"id": await served(client, tools=[TOOL]), "rating": "up", "consent": BOTH}
            assert (await client.post("/v1/feedback", json=said)).json()["stored"]
        kept: Any = front.votes
        assert (kept.votes[0][0].texts, kept.votes[0][0].finishes) == (("Let me see. " + CALL,), ("tool_calls",))

    finish(run())


def test_what_a_rule_stopped_is_counted_and_not_stored() -> None:
    async def run() -> None:
        rule = RuleConfig(name="well", keywords=("well",), where="output", message="I cannot say.")
        front = front_of(FakeEngine(), rules=(rule,), feedback={"store": "sqlite://"})
        async with client_of(front) as client:
            said = {"id": await served(client), "rating": "down", "consent": BOTH}
            told = (await client.post("/v1/feedback", json=said)).json()
        kept: Any = front.votes
        assert (told["stored"], "a rule" in told["why"], kept.votes) == (False, True, [])

    finish(run())


def test_a_thumb_that_could_not_be_stored_is_not_counted_and_can_be_given_again() -> None:
    async def run() -> None:
        canary = {"model": "new", "share": 1.0}
        front = front_of(FakeEngine(), FakeEngine(), feedback={"store": "sqlite://"}, canary=canary)
        kept: Any = front.votes
        client = client_of(front)
        client._transport.raise_app_exceptions = False  # type: ignore[attr-defined]
        async with client:
            said = {"id": await served(client), "rating": "down", "consent": BOTH}
            keep, kept.keep = kept.keep, None  # the store is broken for a while
            assert (await client.post("/v1/feedback", json=said)).status_code == 500
            window = front.router.canary.windows["canary"]  # type: ignore[union-attr]
            assert window.thumbs == 0
            kept.keep = keep
            assert (await client.post("/v1/feedback", json=said)).json()["stored"]
            assert (window.thumbs, window.down) == (1, 1.0)

    finish(run())


def test_feedback_that_comes_again_is_one_word_and_a_change_of_mind_another(tmp_path) -> None:
    """By content where the client sends no id: up, up (a retry), down, up are three words, and each is told of once."""

    async def run() -> None:
        outcomes = tmp_path / "outcomes.jsonl"
        canary = {"model": "new", "share": 0.0, "outcomes": str(outcomes)}
        front = front_of(FakeEngine(), FakeEngine(), feedback={"store": "sqlite://"}, canary=canary)
        async with client_of(front) as client:
            answer_id, other = await served(client), await served(client)

            async def give(answer: str = answer_id, **said: Any) -> Any:
                return await client.post("/v1/feedback", json={"id": answer, "rating": "up", "by": "me", "consent": BOTH, **said})

            twice = await asyncio.gather(give(), give())  # a client that waited too little
            first = twice[0].json()["event_id"]
            assert [a.json() for a in (*twice, await give())] == [{"stored": True, "event_id": first, "why": ""}] * 3
            words = [give(rating="down"), give(), give(by="you"), give(other), give(rating=None, edit="Better.")]
            events = [(await word).json()["event_id"] for word in words]
            assert len({first, *events}) == 6
            assert len(outcomes.read_text().splitlines()) == 5
            mine = [await give(other, event_id="mine", rating="down") for _ in range(2)]
            assert [a.json()["event_id"] for a in mine] == ["mine", "mine"]
            assert (await give(other, event_id="mine", rating="up")).json()["error"]["code"] == "conflict"
            for wrong in ("", 7, "x" * 201):
                assert (await give(event_id=wrong)).status_code == 400
            assert len(front.votes.votes) == 7  # type: ignore[union-attr]
            for by in ("a", "a", "b"):  # without consent the id is not told, and a retry is not counted all the same
                assert (await give(by=by, consent={})).json()["event_id"] is None
            counts = (await client.get("/metrics")).text
            assert 'keel_feedback_total{kind="thumb",stored="yes"} 6.0' in counts
            assert 'keel_feedback_total{kind="thumb",stored="no"} 2.0' in counts

    finish(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_that_does_not_come_back_is_a_503_in_time(stream: bool) -> None:
    """New requests and those under way alike."""

    class Dying(FakeEngine):
        async def ask(self, row):
            yield Piece(row.name, prompt_tokens=1)
            self.alive = False
            raise GoneError

    async def run() -> None:
        front = front_of(Dying(), probe={"gone_s": 0.05})
        async with client_of(front) as client:
            first = await client.post("/v1/chat/completions", json=chat(stream=stream))
            later = await client.post("/v1/chat/completions", json=chat(stream=stream))
        assert "has been gone" in first.text
        assert (later.status_code, later.headers["retry-after"]) == (503, "1")
        assert front.router.held["stable"] == 0

    finish(run())
