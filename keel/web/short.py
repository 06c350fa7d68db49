"""The two calls that come with every vote, by a short way: FastAPI's own takes longer than all that a vote is about.

Only what is asked in the usual form goes by it. All else, whatever is wrong with it included, goes on to the routes, which do the same
and are what the API's page shows (`keel.web.annotate.judge` and ``items``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keel.web.annotate import ITEMS, give_items, store_one
from keel.web.bodies import JudgementIn
from keel.web.errors import answer_to, unforeseen
from keel.web.kit import Kit, signed_in

_ITEMS = re.compile(r"/api/campaigns/([^/]+)/items")
_NUMBER = re.compile(rb"(?:n=([1-9]\d{0,3}))?")


class Short:
    """ASGI, behind the guard, which has the whole body. ``state.kit`` is the app's."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["method"] == "POST" and scope["path"] == "/api/judgements":
                return await self._judge(scope, receive, send)
            if scope["method"] == "GET" and (path := _ITEMS.fullmatch(scope["path"])):
                number = _NUMBER.fullmatch(scope["query_string"])
                if number is not None:
                    return await _answer(self._items(Request(scope), path[1], int(number[1] or ITEMS)), scope, receive, send)
        await self.app(scope, receive, send)

    async def _judge(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        request = Request(scope)
        try:
            usual = not message.get("more_body") and request.headers.get("content-type") == "application/json"
            body = JudgementIn.model_validate_json(message.get("body", b"")) if usual else None
        except ValidationError:
            body = None
        if body is None:
            return await self.app(scope, _first(message, receive), send)
        await _answer(self._store(request, body), scope, receive, send)

    async def _items(self, request: Request, campaign: str, n: int) -> dict[str, Any]:
        kit: Kit = self.state.kit
        return await give_items(kit, await signed_in(request, kit), campaign, n)

    async def _store(self, request: Request, body: JudgementIn) -> dict[str, Any]:
        kit: Kit = self.state.kit
        return await store_one(kit, await signed_in(request, kit), body)


async def _answer(work: Awaitable[dict[str, Any]], scope: Scope, receive: Receive, send: Send) -> None:
    try:
        response = JSONResponse(await work)
    except Exception as error:
        response = answer_to(error) or unforeseen(error)
    await response(scope, receive, send)


def _first(message: Message, receive: Receive) -> Receive:
    """A message that was read already, then the others."""
    waiting = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
