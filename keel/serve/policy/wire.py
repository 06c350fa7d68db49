"""How answers, errors and bodies stand on the wire, for all apps of policies: OpenAI's forms, JSON in UTF-8, a key."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from keel.serve.policy import replies
from keel.serve.policy.requests import json_of

_GUARDED = {"large": "request_too_large", "host": "misdirected_request", "origin": "foreign_origin", "slow": "request_timeout"}
OPEN_PATHS = ("/health", "/ready", "/static/", "/favicon.ico")  # need no key


def refuse(status: int, message: str, kind: str, param: str | None = None, code: str | None = None, **headers: str) -> Response:
    """An error in OpenAI's form."""
    body = json.dumps(replies.error_body(message, kind, param, code), ensure_ascii=False)
    return Response(body.encode("utf-8", "replace"), status, {k.replace("_", "-"): v for k, v in headers.items()}, "application/json")


def reply(body: Any, status: int = 200, **headers: str) -> Response:
    """JSON without NaN."""
    raw = json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return Response(raw, status, {k.replace("_", "-"): v for k, v in headers.items()}, "application/json")


async def read_json(request: Request) -> Any:
    """The JSON of a body, as ``json_of``. The body is kept by the request: whoever wants its size asks again."""
    return json_of(await request.body())


def guarded_form(status: int, code: str, message: str, todo: str) -> Mapping[str, Any]:
    """What the guard refuses, in OpenAI's form. ``code`` is its word for why."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return replies.error_body(f"{message}: {todo}" if todo else message, kind, code=_GUARDED.get(code, code))


async def not_found(request: Request, _: Exception) -> Response:
    """A path that is not there."""
    return refuse(404, f"there is no {request.url.path}", "invalid_request_error", code="not_found")


async def wrong_method(request: Request, _: Exception) -> Response:
    """A path that is asked another way."""
    return refuse(405, f"{request.url.path} does not answer {request.method}", "invalid_request_error", code="method_not_allowed")


async def broken(_: Request, error: Exception) -> Response:
    """A fault of ours; the log has the traceback."""
    return refuse(500, f"the server failed: {type(error).__name__}", "server_error")


FAULTS: Mapping[Any, Any] = {404: not_found, 405: wrong_method, 500: broken}  # of an app: no error leaves in another form


class Keys:
    """ASGI: without the key nothing is answered but whether the server is there."""

    def __init__(self, app: Any, key: str, refused: Callable[[], None], is_open: Callable[[Request], bool]) -> None:
        self.app, self._key, self._refused, self._is_open = app, key, refused, is_open

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self._key and not str(scope["path"]).startswith(OPEN_PATHS):
            request = Request(scope)
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self._key.encode()) and not self._is_open(request):
                self._refused()
                return await refuse(401, "the key is missing or wrong", "invalid_request_error", code="invalid_api_key")(
                    scope, receive, send
                )
        await self.app(scope, receive, send)
