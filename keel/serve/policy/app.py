"""The routes: OpenAI's, health, metrics, feedback. What they do is in `front` and `answer`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from keel.core.errors import UserError
from keel.serve.policy import replies
from keel.serve.policy.answer import Answer, FailedError
from keel.serve.policy.front import Front, read_said, why_not_kept
from keel.serve.policy.metrics import CONTENT_TYPE
from keel.serve.policy.replies import Choice, Head
from keel.serve.policy.requests import Asked, Kind, RequestError, read_request
from keel.serve.policy.router import FullError
from keel.serve.policy.wire import FAULTS, Keys, guarded_form, read_json, refuse, reply
from keel.site.guard import Guard

log = logging.getLogger("keel")
_RETRY = {"retry-after": "1"}
_LOOK_S = 0.2  # between two looks whether a client that does not stream is still there


class PolicyApi:
    """OpenAI's endpoints over a front."""

    def __init__(self, front: Front) -> None:
        self.front = front

    async def chat(self, request: Request) -> Response:
        return await self._ask("chat", request)

    async def text(self, request: Request) -> Response:
        return await self._ask("text", request)

    async def models(self, request: Request) -> Response:
        """`/v1/models`, and one of them."""
        about = self.front.router.engines["stable"].about
        one = {"id": self.front.name, "object": "model", "created": 0, "owned_by": "keel", "max_model_len": about.context}
        wanted = request.path_params.get("name")
        if wanted is None:
            return reply({"object": "list", "data": [one]})
        if wanted != self.front.name:
            return refuse(404, f"the model {wanted!r} does not exist here", "invalid_request_error", "model", "model_not_found")
        return reply(one)

    async def health(self, _: Request) -> Response:
        """The process is there. `/ready` says whether it answers."""
        return reply(self.front.state())

    async def ready(self, _: Request) -> Response:
        why = "the server is going down" if self.front.stopping else await self.front.router.ready()
        return reply({"ready": not why, "why": why}, 503 if why else 200, **({"retry_after": "1"} if why else {}))

    async def metrics(self, _: Request) -> Response:
        return Response(self.front.scrape(), media_type=CONTENT_TYPE)

    async def feedback(self, request: Request) -> Response:
        """A thumb or an edit of an answer that was given a while ago at most."""
        front = self.front
        if front.votes is None:
            return refuse(404, "feedback is not taken here: no store is set", "invalid_request_error")
        try:
            body = await read_json(request)
            served = front.memory.get(str(body.get("id", "")) if isinstance(body, dict) else "")
            if served is None:
                return refuse(404, "this answer is not remembered (any more)", "invalid_request_error", "id", "not_found")
            said = read_said(body, len(served.texts))
            event = await front.feedback(served, said)
        except RequestError as error:
            return refuse(error.status, error.message, "invalid_request_error", error.param, error.code)
        except UserError as error:
            return refuse(400, error.message, "invalid_request_error")
        return reply({"stored": bool(event), "event_id": event or None, "why": why_not_kept(served, said)})

    async def _ask(self, kind: Kind, request: Request) -> Response:
        front, refused = self.front, self.front.metrics.refused
        if front.stopping:
            refused.labels("stopping").inc()
            return refuse(503, "the server is going down: ask again", "server_error", code="stopping", **_headers(_RETRY))
        try:
            body, size = await read_json(request), len(await request.body())
            asked = read_request(kind, body, front.name, front.router.engines["stable"].about, front.config.queue, size)
        except RequestError as error:
            refused.labels("bad").inc()
            return refuse(error.status, error.message, "invalid_request_error", error.param, error.code)
        answer_id = ("chatcmpl-" if kind == "chat" else "cmpl-") + secrets.token_hex(12)
        head = Head(kind, answer_id, int(time.time()), front.name, "keel")
        rule = front.stopped_by(asked)
        if rule is not None:
            return _stopped(head, asked, rule.message, rule.name)
        try:
            answer = front.begin(asked, answer_id)
        except FullError:
            refused.labels("full").inc()
            return refuse(429, "too much is waiting: ask again later", "rate_limit_error", code="queue_full", **_headers(_RETRY))
        try:
            if await self._left(request, answer.accepted()):
                return self._gone(answer, answer_id, kind)
        except RequestError as error:
            return self._turned_away(answer, answer_id, kind, error)
        except FailedError as error:
            return self._failed(answer, answer_id, kind, error.status, error.message)
        if asked.stream:
            stream = StreamingResponse(self._events(head, asked, answer), media_type="text/event-stream")
            stream.headers["x-accel-buffering"] = "no"
            return stream
        return await self._whole(request, head, asked, answer)

    def _failed(self, answer: Answer, answer_id: str, kind: Kind, status: int, message: str) -> Response:
        answer.cancel()
        self.front.over(answer, answer_id, kind, status)
        return refuse(status, message, "server_error", **(_headers(_RETRY) if status == 503 else {}))

    def _turned_away(self, answer: Answer, answer_id: str, kind: Kind, error: RequestError) -> Response:
        """The engine does not take it: never, or not now."""
        answer.cancel()
        self.front.over(answer, answer_id, kind, error.status)
        if error.status != 429:
            return refuse(error.status, error.message, "invalid_request_error", error.param, error.code)
        self.front.metrics.refused.labels("full").inc()
        return refuse(429, error.message, "rate_limit_error", code=error.code, **_headers(_RETRY))

    def _gone(self, answer: Answer, answer_id: str, kind: Kind) -> Response:
        """Nobody is there to read it."""
        answer.cancel()
        self.front.over(answer, answer_id, kind, 499, left=True)
        return Response(status_code=499)

    async def _left(self, request: Request, waited_for: Coroutine[Any, Any, None]) -> bool:
        """Wait for something; true, and it is given up, when the client goes away before."""
        work = asyncio.create_task(waited_for)
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_LOOK_S)
                if not work.done() and await request.is_disconnected():
                    return True
            work.result()
        finally:
            work.cancel()
        return False

    async def _whole(self, request: Request, head: Head, asked: Asked, answer: Answer) -> Response:
        """The answer in one piece. A client that goes away ends it."""
        try:
            if await self._left(request, answer.whole()):
                return self._gone(answer, head.answer_id, asked.kind)
        except RequestError as error:  # the engine that went on with it has less room
            return self._turned_away(answer, head.answer_id, asked.kind, error)
        except FailedError as error:
            return self._failed(answer, head.answer_id, asked.kind, error.status, error.message)
        self.front.over(answer, head.answer_id, asked.kind, 200)
        with_logprobs = asked.rows[0].top is not None
        return reply(replies.whole(head, answer.choices, answer.prompt_tokens, with_logprobs))

    async def _events(self, head: Head, asked: Asked, answer: Answer) -> AsyncIterator[bytes]:
        status, left = 200, True
        try:
            if asked.kind == "chat":
                for index in range(len(asked.rows)):
                    yield replies.event(replies.chunk(head, index, role="assistant"))
            async with contextlib.aclosing(answer.deltas()) as deltas:  # type: ignore[type-var]
                async for d in deltas:
                    choice = answer.choices[d.index] if d.finish else Choice()
                    more = {"tool_calls": choice.calls, "note": choice.note}
                    yield replies.event(replies.chunk(head, d.index, d.text, d.tokens, d.finish, **more))
            if asked.usage_in_stream:
                yield replies.event(replies.usage_chunk(head, answer.prompt_tokens, answer.choices))
            left = False
            yield replies.event("[DONE]")
        except (FailedError, RequestError) as error:
            status, left = error.status, False
            yield replies.event(replies.error_body(error.message, "server_error"))
        finally:
            answer.cancel()
            self.front.over(answer, head.answer_id, asked.kind, status, left)


def _stopped(head: Head, asked: Asked, message: str, rule: str) -> Response:
    """The answer to a prompt that a rule stopped: nothing is drawn."""
    choices = [Choice(text=message, finish="content_filter", note=rule) for _ in asked.rows]
    if not asked.stream:
        return reply(replies.whole(head, choices, 0, with_logprobs=False))
    return Response(replies.streamed(head, choices, 0, asked.usage_in_stream), media_type="text/event-stream")


def _headers(pairs: dict[str, str]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in pairs.items()}


def make_app(front: Front, door: Any, more: Sequence[BaseRoute] = (), is_open: Callable[[Request], bool] = lambda _: False) -> Starlette:
    """The app. ``door``: how it is reached (``site.guard.Door``); ``more``: pages beside the API, ``is_open``: who may see them without the
    key."""
    api = PolicyApi(front)
    calls: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("/v1/chat/completions", api.chat, "POST"), ("/v1/completions", api.text, "POST"), ("/v1/models", api.models, "GET"),
        ("/v1/models/{name:path}", api.models, "GET"), ("/v1/feedback", api.feedback, "POST"), ("/health", api.health, "GET"),
        ("/ready", api.ready, "GET"), ("/metrics", api.metrics, "GET"),
    ]  # fmt: skip

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.create_task(front.tick())
        yield
        ticking.cancel()

    async def missing(request: Request, _: Exception) -> Response:
        return refuse(404, f"{request.url.path}: there is {', '.join(path for path, _, _ in calls)}", "invalid_request_error")

    routes = [*(Route(path, call, methods=[method]) for path, call, method in calls), *more]
    app = Starlette(routes=routes, lifespan=life, exception_handlers={**FAULTS, 404: missing})
    app.state.front = front
    app.add_middleware(Keys, key=front.key, refused=lambda: front.metrics.refused.labels("key").inc(), is_open=is_open)
    app.add_middleware(Guard, settings=door, form=guarded_form)
    return app
