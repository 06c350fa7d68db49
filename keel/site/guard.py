"""What holds for every request before any page or call is asked: the name it came by, its size, and the headers of the response."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keel.site.listening import LOOPBACK

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_KEPT = tuple((name.encode(), value.encode()) for name, value in HEADERS.items())
_FRESH = (*_KEPT, (b"cache-control", b"no-store"))
_READ = frozenset({b"host", b"origin", b"content-length"})
Form = Callable[[int, str, str, str], Mapping[str, Any]]  # (status, code, message, what to do) -> the body of a refusal
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Bounds(Protocol):
    """What a body may be: bytes, and seconds until it is there."""

    @property
    def body_bytes(self) -> int: ...

    @property
    def body_seconds(self) -> float: ...


class Door(Protocol):
    """How a server is reached. ``public_url``: by what address from outside; empty where there is none."""

    @property
    def host(self) -> str: ...

    @property
    def public_url(self) -> str: ...

    @property
    def limits(self) -> Bounds: ...


def allowed_names(settings: Door) -> frozenset[str]:
    """The host names that the server answers to. A page of a stranger that makes its own name point here (DNS rebinding) has another."""
    names = {*LOOPBACK, urlsplit(settings.public_url).hostname or ""} - {""}
    return frozenset(names if settings.host in LOOPBACK else names | {settings.host.lower(), socket.gethostname().lower()})


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets, in small letters; empty when it is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def place_of(origin: str) -> str:
    """The host and port of an Origin header, in small letters; empty when it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_allowed(header: str, names: frozenset[str], loopback: bool) -> bool:
    """May a request with this Host header be answered? Away from loopback plain addresses may: no name can be made to point at one."""
    name = host_name(header)
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return not loopback


def house_form(_: int, code: str, message: str, todo: str) -> Mapping[str, Any]:
    """A refusal as the pages' own calls read it."""
    return {"error": {"code": code, "message": message, "todo": todo}}


class Guard:
    """ASGI: refuses wrong hosts, foreign origins and large bodies; adds the headers of safety to every response."""

    def __init__(self, app: ASGIApp, settings: Door, form: Form = house_form) -> None:
        """``form``: of refusals, as those who ask read errors."""
        self.app, self.limits, self._form = app, settings.limits, form
        names, loopback = allowed_names(settings), settings.host in LOOPBACK
        self._is_allowed = lru_cache(maxsize=256)(lambda header: is_allowed(header, names, loopback))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}
        safe = _safe(send, str(scope["path"]))
        if not self._is_allowed(headers.get(b"host", "")):
            return await self._refuse(
                safe, 421, "host", "this server is not known by that name", "use the address that was printed at its start"
            )
        if scope["method"] in _CHANGES:
            origin = headers.get(b"origin", "")
            if origin and place_of(origin) != headers.get(b"host", "").lower():
                return await self._refuse(safe, 403, "origin", "another site asked for this", "open the server's own page")
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    body = await _body(headers, receive, self.limits.body_bytes)
            except TimeoutError:
                return await self._refuse(safe, 408, "slow", "the request took too long")
            if body is None:
                said = f"a request may have {self.limits.body_bytes} bytes"
                return await self._refuse(safe, 413, "large", said, "send fewer at a time")
            receive = _replay(body, receive)
        await self.app(scope, receive, safe)

    async def _refuse(self, send: Send, status: int, error: str, message: str, todo: str = "") -> None:
        body = json.dumps(self._form(status, error, message, todo)).encode()
        head: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})


async def _body(headers: Mapping[bytes, str], receive: Receive, limit: int) -> bytes | None:
    """All of the body; None when it is too large, whatever its Content-Length says."""
    said = headers.get(b"content-length", "").lstrip("0")
    if said.isdecimal() and (len(said) > 18 or int(said) > limit):
        return None
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            return None
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = True

    async def again() -> Message:
        nonlocal waiting
        if waiting:
            waiting = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def _safe(send: Send, path: str) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            there = {name.lower() for name, _ in given}
            new = _KEPT if path.startswith(("/static/", "/media/")) else _FRESH
            message = {**message, "headers": given + [pair for pair in new if pair[0] not in there]}
        await send(message)

    return wrapped
