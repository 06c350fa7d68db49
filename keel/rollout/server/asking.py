"""JSON over HTTP with an engine that is not Keel's, many questions at a time."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from keel.core.errors import ConfigError
from keel.rollout.server.protocol import EngineError, RefusedError

T = TypeVar("T")
_SAID = 300  # characters of an engine's own words in a message


def place_of(url: str) -> tuple[str, int]:
    """Host and port. Raises ConfigError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"sampler.server.urls: {url} is no http://HOST:PORT", "give the address that the engine printed")
    return parts.hostname, parts.port or 80


class Asking:
    """An engine at ``url``, asked in JSON."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, (self._host, self._port), self._timeout_s = url, place_of(url), timeout_s

    def ask(self, path: str, body: Any = None, timeout_s: float | None = None) -> Any:
        """POST ``body``, or GET where there is none. Raises RefusedError for what the engine finds wrong with the question (400, 404, 422),
        EngineError for all else that is no answer."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s or self._timeout_s)
        try:
            headers = {"Content-Type": "application/json"}
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            raw, status = reply.read(), reply.status
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{self.url}: {type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if status != 200:
            kind = RefusedError if status in (400, 404, 422) else EngineError
            raise kind(f"{self.url}{path}: {status}: {raw.decode('utf-8', 'replace')[:_SAID]}")
        try:
            return json.loads(raw) if raw else None
        except ValueError:
            raise EngineError(f"{self.url}{path}: the answer is no JSON: {raw[:80]!r}") from None


def side_by_side(calls: Sequence[Callable[[], T]], width: int) -> Iterator[T]:
    """What the calls return, in the order in which they are done, at most ``width`` at a time. What one raises is raised, and those that
    have not begun never do. The threads keep no process alive."""
    waiting: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    threads = min(width, len(calls))
    for call in (*calls, *[None] * threads):
        waiting.put(call)
    stopped = threading.Event()

    def work() -> None:
        while (call := waiting.get()) is not None and not stopped.is_set():
            try:
                done.put((call(), None))
            except BaseException as error:
                done.put((None, error))

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in calls:
            result, error = done.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        stopped.set()
