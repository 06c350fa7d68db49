"""An engine that is a server of OpenAI's protocol: vLLM, SGLang, Keel itself, whatever speaks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from keel.core.errors import ModelError
from keel.core.json_lines import lines_in
from keel.serve.policy.engine import BusyError, GoneError, RefusedError
from keel.serve.policy.frames import About, Piece, Row, TokenText

_ENDS = {"stop": "stop", "length": "length", "tool_calls": "stop"}


class RemoteEngine:
    """Its answers come as text without ids, so another engine cannot go on with them. Tools stay with the server that renders."""

    def __init__(self, url: str, model: str, key: str = "", start_s: float = 60.0, transport: Any = None) -> None:
        """``model``: the name it has there; ``key``: sent as a bearer. ``transport``: httpx's, for tests."""
        import httpx

        self._url, self._model, self._start_s = url.rstrip("/").removesuffix("/v1"), model, start_s
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(None, connect=10.0)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, transport=transport)
        self._httpx = httpx
        self._alive = False
        self._context: int | None = None
        self._watch: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def about(self) -> About:
        return About(self._model, context=self._context, details={"url": self._url})

    @property
    def alive(self) -> bool:
        return self._alive

    async def start(self) -> None:
        """Until it lists the model. Raises ModelError."""
        deadline = asyncio.get_running_loop().time() + self._start_s
        while not self._alive:
            why = await self._look()
            if not self._alive and asyncio.get_running_loop().time() > deadline:
                raise ModelError(f"{self._url}: {why}", "start that server first, and give the model's name as it has it")
            await asyncio.sleep(0 if self._alive else 0.5)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_again())

    def gone(self) -> None:
        """Who knows that the server has ended says so at once."""
        self._alive = False

    async def _look(self) -> str:
        """Sets ``alive``; returns what is wrong."""
        try:
            answer = await self._client.get(f"{self._url}/v1/models", timeout=5.0)
            names = {m["id"]: m for m in answer.json()["data"]}
        except (self._httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            self._alive = False
            return f"lists no models ({type(error).__name__})"
        self._alive = self._model in names
        longest = names[self._model].get("max_model_len") if self._alive else None  # vLLM tells it
        self._context = longest if isinstance(longest, int) else self._context
        return "" if self._alive else f"has no model {self._model!r}, but {', '.join(names)}"

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._look()

    async def ask(self, row: Row) -> AsyncIterator[Piece]:
        if not self._alive or row.said:
            raise GoneError
        path = "/v1/completions" if row.prompt is not None else "/v1/chat/completions"
        try:
            async with self._client.stream("POST", self._url + path, json=self._body(row)) as answer:
                if answer.status_code == 429:
                    raise BusyError(_message(await answer.aread()))
                if answer.status_code in (400, 404, 413, 422):
                    raise RefusedError(_message(await answer.aread()))
                if answer.status_code != 200:
                    raise GoneError
                async for piece in self._pieces(row, answer):
                    yield piece
        except self._httpx.TransportError:
            self._alive = False  # until a look finds it again
            raise GoneError from None
        except (self._httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):  # gone, or what it says is not the protocol
            raise GoneError from None

    async def _pieces(self, row: Row, answer: Any) -> AsyncIterator[Piece]:
        yield Piece(row.name, prompt_tokens=0)
        end, usage, drawn = "", (0, 0), 0
        async for line in lines_in(answer.aiter_bytes()):
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                break
            said = json.loads(data)
            if "error" in said:
                raise GoneError
            if said.get("usage"):
                usage = said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]
            for choice in said["choices"]:
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                drawn += 1
                end = _ENDS.get(choice.get("finish_reason"), end)
                tokens = _tokens(choice.get("logprobs"))
                if text or tokens:
                    yield Piece(row.name, text=text, tokens=tokens)
        if not end:
            raise GoneError
        yield Piece(row.name, end="stop" if end == "stop" else "length", counted=usage if any(usage) else (0, drawn))

    def _body(self, row: Row) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "max_tokens": row.max_tokens, "temperature": row.temperature, "top_p": row.top_p}
        body |= {"stream": True, "stream_options": {"include_usage": True}, "seed": (row.seed + row.sample) % 2**63}
        body |= {"stop": list(row.stop)} if row.stop else {}
        body |= {"top_k": row.top_k} if row.top_k else {}
        if row.prompt is not None:
            return body | {"prompt": row.prompt} | ({"logprobs": row.top} if row.top is not None else {})
        body |= {"logprobs": True, "top_logprobs": row.top} if row.top is not None else {}
        return body | {"messages": [_message_of(m) for m in row.messages]} | ({"tools": list(row.tools)} if row.tools else {})

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._client.aclose()


def _message_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as OpenAI's protocol has it."""
    content = message["content"]
    if not isinstance(content, str):
        content = [p if p["type"] == "text" else {"type": "image_url", "image_url": {"url": p["source"]}} for p in content]
    return {**message, "content": content}


def _tokens(logprobs: Any) -> tuple[TokenText, ...]:
    """Log-probabilities of a chunk, in either endpoint's form."""
    if not logprobs:
        return ()
    if logprobs.get("content") is not None:
        top = [tuple((t["token"], t["logprob"]) for t in e.get("top_logprobs", ())) for e in logprobs["content"]]
        return tuple(TokenText(e["token"], e["logprob"], t) for e, t in zip(logprobs["content"], top, strict=True))
    likeliest = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
    told = zip(logprobs["tokens"], logprobs["token_logprobs"], likeliest, strict=True)
    return tuple(TokenText(token, logprob, tuple((t or {}).items())) for token, logprob, t in told)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
