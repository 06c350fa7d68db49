"""OpenAI's protocol as clients meet it: answers, streams, refusals, limits, clients that go away."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat, client_of, finish, front_of, until
from PIL import Image

from keel.serve.policy.engine import BusyError
from keel.serve.policy.frames import About

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def ask(front: Any, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(front) as client:
            return await client.post(path, json=body, **more)

    return finish(run())


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_and_its_stream_say_the_same_and_count_the_same() -> None:
    whole = ask(front_of(FakeEngine()), chat(n=2)).json()
    assert [c["message"]["content"] for c in whole["choices"]] == ["All is well."] * 2
    assert [c["finish_reason"] for c in whole["choices"]] == ["stop", "stop"]
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    parts = chunks(ask(front_of(FakeEngine()), chat(n=2, stream=True, stream_options={"include_usage": True})))
    said = ["", ""]
    for part in parts:
        for choice in part["choices"]:
            said[choice["index"]] += choice["delta"].get("content") or ""
    assert said == ["All is well."] * 2
    assert parts[-1]["usage"] == whole["usage"]
    assert {p["id"] for p in parts} == {parts[0]["id"]}
    assert sorted(c["finish_reason"] for p in parts for c in p["choices"] if c["finish_reason"]) == ["stop", "stop"]


def test_sampling_parameters_arrive_as_they_were_given() -> None:
    engine = FakeEngine()
    body = chat(temperature=0.3, top_p=0.8, top_k=5, max_completion_tokens=2, stop=["x", "yy"], seed=11, logprobs=True, top_logprobs=1)
    answer = ask(front_of(engine), body).json()
    (row,) = engine.asked
    assert (row.temperature, row.top_p, row.top_k, row.max_tokens, row.stop, row.seed) == (0.3, 0.8, 5, 2, ("x", "yy"), 11)
    assert answer["choices"][0]["finish_reason"] == "length"
    first = answer["choices"][0]["logprobs"]["content"][0]
    assert (first["token"], first["logprob"], first["bytes"], len(first["top_logprobs"])) == ("All", -0.5, [65, 108, 108], 1)


def test_completions_have_their_own_form_and_several_prompts() -> None:
    answer = ask(front_of(FakeEngine()), {"model": "fake", "prompt": ["a", "b"], "logprobs": 2}, "/v1/completions").json()
    assert [c["text"] for c in answer["choices"]] == ["All is well."] * 2
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == 14
    assert answer["choices"][0]["logprobs"]["text_offset"] == [0, 3, 6, 11]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"temperature": 2.5}, 400, "temperature"),
        ({"temperature": True}, 400, "temperature"),
        ({"temperature": 1e-5}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 17}, 400, "n"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "7"}, 400, "max_tokens"),
        ({"stop": [""]}, 400, "stop"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"tools": [TOOL]}, 400, "tools"),
        ({"temperatur": 1}, 400, "temperatur"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": "too long"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "too long"}], "stream": True}, 400, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict[str, Any], status: int, param: str) -> None:
    answer = ask(front_of(FakeEngine()), chat() | change)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param)


def test_values_that_change_nothing_are_taken() -> None:
    same = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}, "n": None, "stop": None}
    assert ask(front_of(FakeEngine()), chat() | same).status_code == 200


def test_broken_bodies_and_unknown_places() -> None:
    async def run() -> list[int]:
        async with client_of(front_of(FakeEngine())) as client:
            found = [await client.post("/v1/chat/completions", content=raw) for raw in (b"{", b"[]", b"[" * 5000, b"\xff")]
            found += [await client.get("/v1/chat/completions"), await client.get("/v1/nothing")]
            found += [await client.post("/v1/chat/completions", content=b" " * 200_000)]
            return [a.status_code for a in found]

    assert finish(run()) == [400, 400, 400, 400, 405, 404, 413]


def test_the_key_is_asked_for_and_never_needed_to_see_that_it_lives() -> None:
    async def run() -> list[int]:
        async with client_of(front_of(FakeEngine(), key="k" * 16)) as client:
            right, wrong = ({"authorization": f"Bearer {k}"} for k in ("k" * 16, "k" * 15))
            found = [await client.get("/v1/models"), await client.get("/v1/models", headers=wrong), await client.get("/metrics")]
            found += [await client.get("/v1/models", headers=right), await client.get("/ready"), await client.get("/health")]
            return [a.status_code for a in found]

    assert finish(run()) == [401, 401, 401, 200, 200, 200]


def test_what_does_not_fit_is_told_to_come_again_and_what_was_taken_is_answered() -> None:
    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        front = front_of(engine, queue={"rows": 2, "waiting": 1})
        async with client_of(front) as client:
            taken = [asyncio.create_task(client.post("/v1/chat/completions", json=chat())) for _ in range(3)]
            await until(lambda: front.router.held["stable"] == 3)
            full = await client.post("/v1/chat/completions", json=chat())
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            assert "keel_rows_waiting 1.0" in (await client.get("/metrics")).text
            engine.gate.set()  # type: ignore[union-attr]
            assert [a.status_code for a in await asyncio.gather(*taken)] == [200] * 3
            await until(lambda: front.router.held["stable"] == 0)
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200

    finish(run())


def test_the_queue_is_bounded_by_bytes_as_well() -> None:
    """Each answer of a request holds its body: what fits alone waits its turn, what never will is told so."""

    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        front = front_of(engine, queue={"waiting_mb": 0.02})
        async with client_of(front) as client:
            long = chat("x" * 9_000)
            taken = [asyncio.create_task(client.post("/v1/chat/completions", json=long)) for _ in range(2)]
            await until(lambda: front.router.held["stable"] == 2)
            full = await client.post("/v1/chat/completions", json=long)
            assert (full.status_code, full.headers["retry-after"], full.json()["error"]["type"]) == (429, "1", "rate_limit_error")
            assert (await client.post("/v1/chat/completions", json=chat() | {"n": 16, "messages": long["messages"]})).status_code == 413
            engine.gate.set()  # type: ignore[union-attr]
            assert [a.status_code for a in await asyncio.gather(*taken)] == [200] * 2
            await until(lambda: not front.router.held_bytes["stable"])
            assert (await client.post("/v1/chat/completions", json=long | {"n": 2})).status_code == 200

    finish(run())


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_with_too_much_waiting_is_a_429_that_says_when(stream: bool) -> None:
    class Busy(FakeEngine):
        async def ask(self, row):
            raise BusyError("too many tokens are waiting")
            yield

    async def run() -> None:
        front = front_of(Busy())
        async with client_of(front) as client:
            said = await client.post("/v1/chat/completions", json=chat(stream=stream))
            assert (said.status_code, said.headers["retry-after"]) == (429, "1")
            assert (said.json()["error"]["code"], said.json()["error"]["type"]) == ("queue_full", "rate_limit_error")
            assert 'keel_refused_total{why="full"} 1.0' in (await client.get("/metrics")).text

    finish(run())


def picture(width: int, height: int = 10) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}}


@pytest.mark.parametrize(
    ("sizes", "status"), [((9, 9), 200), ((9, 9, 9), 413), ((90_000,), 413), ((60_000, 60_000), 413), ((60_000,), 200)]
)
def test_images_are_bounded_by_number_and_by_what_they_become(sizes: tuple[int, ...], status: int) -> None:
    front = front_of(FakeEngine(about=About("fake", "t", images=True)), queue={"images": 2, "image_mpx": 0.8})
    said = ask(front, {"model": "fake", "messages": [{"role": "user", "content": [picture(size) for size in sizes]}]})
    assert said.status_code == status
    if status == 413:
        assert (said.json()["error"]["code"], said.json()["error"]["param"]) == ("request_too_large", "messages")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_rows(stream: bool) -> None:
    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        front = front_of(engine)
        app = client_of(front)._transport.app  # type: ignore[attr-defined]
        sent, gone = [], asyncio.Event()
        body = json.dumps(chat(stream=stream)).encode()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1"), (b"content-length", str(len(body)).encode())]
        scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
        scope |= {"method": "POST", "headers": headers}
        scope |= {"path": "/v1/chat/completions", "raw_path": b"", "query_string": b"", "root_path": "", "scheme": "http", "server": None}
        call = asyncio.create_task(app(scope, receive, send))
        await until(lambda: engine.asked)
        gone.set()
        await call
        await until(lambda: engine.left)
        assert engine.left == [engine.asked[0].name]
        await until(lambda: front.router.held["stable"] == 0)
        assert "keel_clients_left_total 1.0" in front.scrape().decode()

    finish(run())


def test_calls_of_tools_are_told_from_text() -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"town": "Bergen"}}\n</tool_call>'
    words = ("Let me look. ", "<tool", "_call>", call.removeprefix("<tool_call>"))
    for stream in (False, True):
        engine = FakeEngine(words=words, about=About("fake", "t", tool_form="hermes"))
        answer = ask(front_of(engine), chat(tools=[TOOL], stream=stream))
        assert engine.asked[0].tools == (TOOL,)
        if stream:
            parts = [c for chunk in chunks(answer) for c in chunk["choices"]]
            text = "".join(c["delta"].get("content") or "" for c in parts)
            calls = [c for p in parts for c in p["delta"].get("tool_calls", ())]
            assert parts[-1]["finish_reason"] == "tool_calls"
        else:
            message = answer.json()["choices"][0]["message"]
            text, calls = message["content"], message["tool_calls"]
        assert text == "Let me look. "
        assert json.loads(calls[0]["function"]["arguments"]) == {"town": "Bergen"}


def test_a_call_of_a_tool_that_is_not_there_stays_text() -> None:
    words = ('<tool_call>{"name": "bank", "arguments": {}}</tool_call>',)
    engine = FakeEngine(words=words, about=About("fake", "t", tool_form="hermes"))
    choice = ask(front_of(engine), chat(tools=[TOOL])).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (words[0], "stop")


def test_ready_means_that_a_token_came() -> None:
    async def status(engine: FakeEngine) -> int:
        async with client_of(front_of(engine, probe={"ready_s": 0.05})) as client:
            return (await client.get("/ready")).status_code

    for engine, wanted in ((FakeEngine(), 200), (FakeEngine(stuck=True), 503), (FakeEngine(alive=False), 503)):
        assert finish(status(engine)) == wanted
        if wanted == 200:
            assert engine.asked[0].probe
            assert engine.asked[0].max_tokens == 1


def test_a_server_that_stops_takes_nothing_new() -> None:
    front = front_of(FakeEngine())
    front.stopping = True
    answer = ask(front, chat())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_feedback_without_consent_is_counted_and_not_kept() -> None:
    async def run() -> None:
        front = front_of(FakeEngine(), feedback={"store": "sqlite://"})
        kept: Any = front.votes
        async with client_of(front) as client:
            answer_id = (await client.post("/v1/chat/completions", json=chat())).json()["id"]

            async def give(**said: Any) -> httpx.Response:
                return await client.post("/v1/feedback", json={"id": answer_id, **said})

            for consent in ({}, {"store": False}, {"train": True}):
                said = (await give(rating="down", consent=consent)).json()
                assert (said["stored"], said["event_id"], kept.votes) == (False, None, [])
            assert (await give(edit="Better.", consent={"store": True, "train": True}, by="me")).json()["stored"]
            served, said = kept.votes[0]
            assert (served.texts, said.edit, said.consent["train"]) == (("All is well.",), "Better.", True)
            both, no_choice = {"rating": "up", "edit": "x"}, {"rating": "up", "choice": 1}
            for wrong in ({}, {"rating": "left"}, both, {"edit": " "}, no_choice, {"stars": 5}):
                assert (await give(**wrong)).status_code == 400
            assert (await client.post("/v1/feedback", json={"id": "no", "rating": "up"})).status_code == 404
            assert 'keel_feedback_total{kind="thumb",stored="no"} 3.0' in (await client.get("/metrics")).text

    finish(run())
