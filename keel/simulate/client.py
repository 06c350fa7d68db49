"""A person's connection to the server of `keel annotate`: what their browser would send, by the JSON API alone. No torch."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from keel.core.errors import UserError

_TRIES = 8
_SECONDS = 60.0
_AGAIN = (429, 503)


class RefusedError(UserError):
    """The server refused a call."""

    def __init__(self, status: int, code: str, message: str, todo: str = "") -> None:
        super().__init__(f"the server refused ({status} {code}): {message}", todo)
        self.status, self.code = status, code


class Client:
    """One browser: a session cookie, the value that changes need, and tries again where the server is busy or the line broke. Every
    change has an event id of its own, so a second sending does no harm. ``wait`` sleeps."""

    def __init__(self, base: str, wait: Callable[[float], None] = time.sleep) -> None:
        where = urlsplit(base)
        if where.scheme != "http" or not where.hostname:
            raise UserError(f"{base!r} is no address of a server", "like http://127.0.0.1:8766")
        self._host, self._port, self._wait = where.hostname, where.port or 80, wait
        self._line: http.client.HTTPConnection | None = None
        self._cookies: dict[str, str] = {}
        self.csrf = "1"  # any value without a session

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def enter(self, token: str, name: str, password: str) -> None:
        """Take part by invitation; whoever did so before signs in. Raises RefusedError."""
        try:
            told = self.call("POST", f"/api/invitations/{quote(token, safe='')}", {"name": name, "password": password})
        except RefusedError as error:
            if error.status != 409:
                raise
            told = self.call("POST", "/api/login", {"name": name, "password": password})
        self.csrf = told["csrf"]

    def items(self, campaign: str, n: int) -> dict[str, Any]:
        """At most ``n`` items, and ``end`` when nothing is left for this person."""
        return self.call("GET", f"/api/campaigns/{quote(campaign, safe='')}/items?n={n}")

    def judge(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send one answer."""
        return self.call("POST", "/api/judgements", body)

    def undo(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for an answered item again, or with ``answer`` correct it."""
        return self.call("POST", "/api/undo", body)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer. Raises RefusedError for a refusal that waiting does not mend, UserError when nobody answers."""
        trouble = ""
        for attempt in range(_TRIES):
            try:
                status, found, headers = self._ask(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                trouble = str(error) or type(error).__name__
                self._wait(min(2.0, 0.05 * 2**attempt))
                continue
            if status < 400:
                return found
            said = found.get("error", {})
            refused = RefusedError(status, said.get("code", ""), said.get("message", ""), said.get("todo", ""))
            if status not in _AGAIN or attempt == _TRIES - 1:
                raise refused
            trouble = refused.message
            self._wait(min(30.0, float(headers.get("Retry-After") or 1.0)))
        raise UserError(f"http://{self._host}:{self._port} does not answer: {trouble}", "is keel annotate running?")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
        if self._line is None:
            self._line = http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in self._cookies.items())} if self._cookies else {}
        data = None
        if method != "GET":
            headers |= {"X-CSRF": self.csrf, "Content-Type": "application/json"}
            data = json.dumps(body or {}, ensure_ascii=False).encode()
        self._line.request(method, path, data, headers)
        response = self._line.getresponse()
        content = response.read()
        for cookie in response.headers.get_all("Set-Cookie") or ():
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name.strip()] = value.strip()
        try:
            found = json.loads(content)
        except ValueError:
            found = {}
        return response.status, found if isinstance(found, dict) else {}, response.headers
