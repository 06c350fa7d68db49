"""`keel chat --page`: the page, and the calls that it makes. The page is told no names before it asks for them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from keel.core.errors import UserError
from keel.serve.policy.duel import Duel, Turn
from keel.serve.policy.replies import event
from keel.serve.policy.requests import RequestError
from keel.serve.policy.wire import FAULTS, Keys, guarded_form, read_json, refuse, reply
from keel.site.guard import Guard
from keel.site.languages import LANGUAGES, language_of, remember
from keel.site.shared import HERE as COMMON
from keel.site.shared import jinja, static_files

HERE = Path(__file__).parent
_JINJA = jinja(HERE)
_MOST_MESSAGES = 400
COOKIE = "keel-chat"


@cache
def catalogue(language: str) -> dict[str, str]:
    """Texts by key."""
    return json.loads((HERE / "lang" / f"{language}.json").read_text(encoding="utf-8"))


class ChatPage:
    """The routes over one duel. One person talks to it, or some who share its votes."""

    def __init__(self, duel: Duel, key: str) -> None:
        self.duel, self._key = duel, key

    async def page(self, request: Request) -> Response:
        language = language_of(request) or "en"
        values = {"t": catalogue(language), "lang": language, "languages": LANGUAGES, "sides": len(self.duel.engines)}
        made = HTMLResponse(_JINJA.get_template("chat.html").render(**values))
        remember(request, made, language)
        if self._key and request.query_params.get("key"):
            made.set_cookie(COOKIE, self._key, samesite="strict", httponly=True)
        return made

    async def ask(self, request: Request) -> Response:
        try:
            turn = self.duel.ask(_messages(await _body(request)))
        except UserError as error:
            return refuse(400, error.message, "invalid_request_error")
        stream = StreamingResponse(self._events(turn), media_type="text/event-stream")
        stream.headers["x-accel-buffering"] = "no"
        return stream

    async def _events(self, turn: Turn) -> AsyncIterator[bytes]:
        yield event({"turn": turn.turn_id})
        async with contextlib.aclosing(self.duel.tell(turn)) as told:  # type: ignore[type-var]
            async for one in told:
                yield event({"side": one.side, "text": one.text, "end": one.end, "error": one.error})

    async def vote(self, request: Request) -> Response:
        try:
            body = await _body(request)
            stored = await self.duel.vote(str(body.get("turn", "")), str(body.get("vote", "")))
        except UserError as error:
            return refuse(400, error.message, "invalid_request_error")
        return reply({"stored": stored})

    async def reveal(self, _: Request) -> Response:
        return reply(self.duel.revealed())


def allowed(request: Request, key: str) -> bool:
    """A browser that opened the printed link once."""
    return bool(key) and (request.cookies.get(COOKIE) == key or (request.url.path == "/" and request.query_params.get("key") == key))


def make_chat_app(duel: Duel, door: Any, key: str) -> Starlette:
    """``key``: what the link holds, where the page can be reached from elsewhere."""
    page = ChatPage(duel, key)

    async def icon(_: Request) -> Response:
        return FileResponse(COMMON / "static" / "site" / "icon.svg", media_type="image/svg+xml")

    routes = [
        Route("/", page.page),
        Route("/favicon.ico", icon),
        Route("/chat/ask", page.ask, methods=["POST"]),
        Route("/chat/vote", page.vote, methods=["POST"]),
        Route("/chat/reveal", page.reveal, methods=["POST"]),
        Mount("/static", static_files(HERE), name="static"),
    ]
    app = Starlette(routes=routes, exception_handlers=FAULTS)
    app.add_middleware(Keys, key=key, refused=lambda: None, is_open=lambda request: allowed(request, key))
    app.add_middleware(Guard, settings=door, form=guarded_form)
    return app


async def _body(request: Request) -> Mapping[str, Any]:
    try:
        body = await read_json(request)
    except RequestError as error:
        raise UserError(error.message) from None
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    return body


def _messages(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Turns of a user and an assistant, the last one the user's."""
    given = body.get("messages")
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_MESSAGES:
        raise UserError(f"messages must be from 1 to {_MOST_MESSAGES}")
    for i, one in enumerate(given):
        role = one.get("role") if isinstance(one, dict) else None
        if role not in ("user", "assistant") or not isinstance(one.get("content"), str):
            raise UserError(f"messages.{i} must be {{role: user or assistant, content: a text}}")
    if given[-1]["role"] != "user":
        raise UserError("the last message must be the user's")
    return [{"role": one["role"], "content": one["content"]} for one in given]
