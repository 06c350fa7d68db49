"""What stands on the wire: streams for clients of HTTP/1.0 and 1.1, and every refusal in the one form that clients read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat, client_of, finish, front_of

from keel.serve.policy.app import make_app
from keel.serve.policy.chat_app import make_chat_app
from keel.serve.policy.duel import Duel
from keel.serve.policy.server import BodyLimits, Door, serve
from keel.site.listening import listen

DOOR = Door("127.0.0.1", 80, "", BodyLimits(1000))


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """The port of a server over a fake."""
    front, up = front_of(FakeEngine()), asyncio.Event()
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        running = asyncio.create_task(serve(make_app(front, DOOR), front, sock, up.set))
        await up.wait()
        yield sock.getsockname()[1]
        front.stopping = True
        await asyncio.wait_for(running, 60)  # a bound for what hangs


async def raw(port: int, version: str, *, closes: bool, pieces: int = 1) -> tuple[str, bytes]:
    """(head, body) as they stand, of a streamed answer. ``pieces``: the request comes in so many."""
    body = json.dumps(chat(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    asked = (head + ("connection: close\r\n" if closes else "") + "\r\n").encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    size = -(-len(asked) // pieces)
    for at in range(0, len(asked), size):
        writer.write(asked[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)
    said = await reader.read()  # until the server closes
    writer.close()
    found, _, rest = said.partition(b"\r\n\r\n")
    return found.decode().lower(), rest


def test_a_stream_to_http_1_0_has_no_sizes_of_chunks_in_it() -> None:
    async def run() -> None:
        async with listening() as port:
            for pieces in (1, 60):
                head, body = await raw(port, "1.0", closes=False, pieces=pieces)
                assert "200 ok" in head.splitlines()[0]
                assert "transfer-encoding" not in head
                events = body.decode().split("\n\n")
                assert all(e.startswith("data: ") for e in events if e)
                assert (events[-2], events[-1]) == ("data: [DONE]", "")
            head, body = await raw(port, "1.1", closes=True)
            assert "transfer-encoding: chunked" in head
            assert body.endswith(b"0\r\n\r\n")

    finish(run())


def test_a_connection_that_says_nothing_does_not_keep_the_server() -> None:
    async def run() -> None:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/ch")
            await writer.drain()
        assert await reader.read() == b""
        writer.close()

    finish(run())


async def slow() -> AsyncIterator[bytes]:
    await asyncio.sleep(60)  # given up by the server long before
    yield b"x"


@pytest.mark.parametrize("which", ["policy", "chat"])
def test_every_refusal_has_openai_s_form(which: str) -> None:
    door = Door("127.0.0.1", 80, "", BodyLimits(1000, body_seconds=0.05))  # of a body that never comes
    path = "/v1/chat/completions" if which == "policy" else "/chat/ask"
    engines: Any = [FakeEngine()]
    app = (
        make_app(front_of(FakeEngine(), key="k" * 16), door)
        if which == "policy"
        else make_chat_app(Duel(engines, {}, None), door, "k" * 16)
    )

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://127.0.0.1") as client:
            key = {"authorization": "Bearer " + "k" * 16}
            return [
                await client.post(path, content=b"x" * 1001, headers=key),
                await client.post(path, json={}, headers={"host": "elsewhere.example", **key}),
                await client.post(path, json={}, headers={"origin": "http://elsewhere.example", **key}),
                await client.post(path, content=slow(), headers=key),
                await client.post(path, json={}),
                await client.post("/nowhere", json={}, headers=key),
                await client.get(path, headers=key),
                await client.post(path, content=b"{", headers=key),
            ]

    said = finish(run())
    assert [a.status_code for a in said] == [413, 421, 403, 408, 401, 404, 405, 400]
    for answer in said:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["type"] == "invalid_request_error"
        assert error["message"]
    codes = [a.json()["error"]["code"] for a in said[:4]]
    assert codes == ["request_too_large", "misdirected_request", "foreign_origin", "request_timeout"]
    assert "1000 bytes" in said[0].json()["error"]["message"]


def test_openai_s_client_reads_them() -> None:
    openai = pytest.importorskip("openai")

    async def run() -> None:
        async with client_of(front_of(FakeEngine())) as there:
            client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=there, max_retries=0)
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(**chat("x" * 200_000))
            assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")

    finish(run())
