"""OpenAI's `/v1/chat/completions` on 127.0.0.1 for agents, with the standard library alone. A key names a conversation; a request sleeps in
a thread of its own until its answer is drawn. Nothing is drawn here: requests are put where the sampler finds them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import select
import socket
import threading
import time
import weakref
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from keel.agents.asked import check_sampling, written
from keel.serve.policy import replies
from keel.serve.policy.config import RowsConfig
from keel.serve.policy.frames import About
from keel.serve.policy.replies import Choice, Head
from keel.serve.policy.requests import Asked, RequestError, json_of, read_request
from keel.types import Endpoint, SamplingParams

log = logging.getLogger("keel")
_LIMITS = RowsConfig(choices=1, max_tokens=1 << 30)  # the run's own limits are the sampler's to keep
_LARGEST = 1 << 26  # bytes of a body
_IDLE_S = 600.0  # a client that falls silent in the middle of a request
OVER = RequestError("there is no open conversation with this key", None, 401, "invalid_api_key")


@dataclass(slots=True)
class Ask:
    """A request that waits."""

    number: int  # of its conversation
    asked: Asked
    connection: socket.socket
    beside: bool = False  # others of the same conversation waited when it came
    _answered: threading.Event = field(default_factory=threading.Event)
    _answer: tuple[int, bytes, str] = (500, b"", "")

    @property
    def gone(self) -> bool:
        """Has its client left?"""
        try:
            looked = select.poll()  # takes numbers of files beyond 1,023
            looked.register(self.connection, select.POLLIN)
            return bool(looked.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def give(self, name: str, model: str, choice: Choice, prompt_tokens: int) -> None:
        """Its answer. ``name``: what the answer's id is made of."""
        head = Head("chat", f"chatcmpl-{hashlib.sha256(name.encode()).hexdigest()[:24]}", int(time.time()), model, "keel")
        self._tell(200, *written(head, self.asked, choice, prompt_tokens))

    def refuse(self, error: RequestError) -> None:
        """It has none."""
        self._tell(*error_of(error))

    def _tell(self, status: int, body: bytes, kind: str) -> None:
        self._answer = (status, body, kind)
        self._answered.set()

    def wait(self) -> tuple[int, bytes, str]:
        self._answered.wait()
        return self._answer


def error_of(error: RequestError) -> tuple[int, bytes, str]:
    """An error in OpenAI's form: status, body, type."""
    body = replies.error_body(error.message, "invalid_request_error", error.param, error.code)
    return error.status, json.dumps(body).encode(), "application/json"


@dataclass(slots=True)
class _Open:
    number: int
    drawn: SamplingParams
    usual: SamplingParams | None
    refused: int = 0
    waiting: int = 0  # requests without an answer so far


class Endpoints:
    """The server. All methods are for the thread that draws; ``wake`` can be read when something has arrived."""

    def __init__(self, model: str, about: About) -> None:
        self.model, self.about = model, about
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}  # by key
        self._keys: dict[int, str] = {}
        self._arrived: list[Ask] = []
        self.wake, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        self.wake.setblocking(False)
        server = _Server(("127.0.0.1", 0), self)
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True, name="keel endpoint").start()
        self._url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        self._finish = weakref.finalize(self, _close, server)

    def open(self, number: int, drawn: SamplingParams, usual: SamplingParams | None = None) -> Endpoint:
        """An endpoint for the conversation ``number``. ``drawn``, ``usual``: see ``check_sampling``."""
        key = f"keel-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._open[key] = _Open(number, drawn, usual)
            self._keys[number] = key
        return Endpoint(self._url, key, self.model)

    def shut(self, number: int) -> None:
        """No more requests of this conversation. What waits is the caller's to refuse."""
        with self._lock:
            self._open.pop(self._keys.pop(number, ""), None)

    def arrived(self) -> list[Ask]:
        """What has come since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            self.wake.recv(4096)
        with self._lock:
            found, self._arrived = self._arrived, []
        return found

    def refused(self, number: int) -> int:
        """How many requests of an open conversation could not be read."""
        with self._lock:
            return self._open[self._keys[number]].refused

    def close(self) -> None:
        """Stop. Also when this object is gone."""
        self._finish()

    def ask(self, key: str, raw: bytes, connection: socket.socket) -> tuple[int, bytes, str]:
        """For the request's own thread: what it is answered."""
        with self._lock:
            one = self._open.get(key)
        try:
            if one is None:
                raise OVER
            try:
                body = json_of(raw)
                asked = read_request("chat", body, self.model, self.about, _LIMITS, len(raw))
                check_sampling(body, one.drawn, one.usual)
            except RequestError:
                with self._lock:
                    one.refused += 1
                raise
            with self._lock:
                if self._open.get(key) is not one:
                    raise OVER
                ask = Ask(one.number, asked, connection, beside=one.waiting > 0)
                one.waiting += 1
                self._arrived.append(ask)
            with contextlib.suppress(BlockingIOError):  # it rings already
                self._bell.send(b"!")
            try:
                return ask.wait()
            finally:  # before its client hears of it
                with self._lock:
                    one.waiting -= 1
        except RequestError as error:
            return error_of(error)


def _close(server: _Server) -> None:
    server.shutdown()
    server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], endpoints: Endpoints) -> None:
        self.endpoints = weakref.proxy(endpoints)  # the server's thread keeps nothing alive
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that is killed leaves its connections."""
        log.debug("an agent's connection ended early")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    timeout = _IDLE_S

    def do_GET(self) -> None:
        model = self.server.endpoints.model
        one = {"id": model, "object": "model", "created": 0, "owned_by": "keel"}
        if self.path == "/v1/models":
            self._send(200, json.dumps({"object": "list", "data": [one]}).encode(), "application/json")
        elif self.path == f"/v1/models/{model}":
            self._send(200, json.dumps(one).encode(), "application/json")
        else:
            self._send(*error_of(RequestError(f"there is no {self.path}", None, 404, "not_found")))

    def do_POST(self) -> None:
        try:
            raw = self._body()
        except RequestError as error:
            self.close_connection = True
            return self._send(*error_of(error))
        if self.path.partition("?")[0] != "/v1/chat/completions":
            return self._send(*error_of(RequestError(f"{self.path}: there is /v1/chat/completions", None, 404, "not_found")))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        self._send(*self.server.endpoints.ask(key, raw, self.connection))

    def _body(self) -> bytes:
        """Raises RequestError for one without a length, or too large."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunks()
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise RequestError("Content-Length is needed", None, 411)
        return self._read(int(length))

    def _chunks(self) -> bytes:
        found = b""
        while True:
            try:
                size = int(self.rfile.readline(64).split(b";")[0], 16)
            except ValueError:
                raise RequestError("a chunk has no size") from None
            found += self._read(size, len(found))
            self.rfile.readline(8)
            if not size:
                return found

    def _read(self, size: int, before: int = 0) -> bytes:
        if size < 0 or size + before > _LARGEST:
            raise RequestError(f"more than {_LARGEST >> 20} MB", None, 413, "request_too_large")
        raw = self.rfile.read(size)
        if len(raw) < size:
            raise ConnectionError("the client left in the middle of its request")
        return raw

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """What agents ask is told by the run's metrics."""
