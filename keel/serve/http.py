"""HTTP around a batcher, with the standard library alone: bounded in connections, in size, in time and in what waits."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from keel.serve.batcher import Batcher, FullError, LateError, StoppedError
from keel.serve.config import QueueConfig
from keel.serve.layouts import LAYOUTS, Asked, BadRequestError, Verdict

log = logging.getLogger("keel")
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class RewardServer(ThreadingHTTPServer):
    """Serves ``LAYOUTS`` by POST and ``/health`` by GET. ``about`` is told by ``/health``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], batcher: Batcher[Asked, Verdict], config: QueueConfig, about: dict[str, Any]) -> None:
        self.batcher, self.config, self.about = batcher, config, about
        self._room = threading.BoundedSemaphore(config.connections)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """One thread a connection while there is room; else a refusal, at once and without a thread."""
        if not self._room.acquire(blocking=False):
            request.settimeout(1.0)
            with contextlib.suppress(OSError):  # it has gone already
                request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone or silent is no error of the server's."""
        log.info("a connection from %s ended early", client_address[0] if client_address else "?")

    def close(self) -> None:
        """Stop listening and answering."""
        self.shutdown()
        self.batcher.stop()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RewardServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.config.read_timeout_s)  # a client that falls silent

    def do_GET(self) -> None:
        if self.path != "/health":
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"{self.path}: there is only /health here"})
            return
        batcher = self.server.batcher
        counts = {k: getattr(batcher, k) for k in ("waiting", "scored", "refused", "abandoned", "passes")}
        status = HTTPStatus.OK if batcher.alive else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, {"status": "ok" if batcher.alive else "stopping", **counts, **self.server.about})

    def do_POST(self) -> None:
        if self.path not in LAYOUTS:
            self.close_connection = True  # the body is not read
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"{self.path}: post to one of {', '.join(LAYOUTS)}"})
            return
        read, write = LAYOUTS[self.path]
        try:
            body = self._body()
            if body is None:
                return
            verdicts = self.server.batcher.ask(read(body), self.server.config.timeout_s, self._gone)
        except BadRequestError as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except FullError:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too much is waiting: ask again later"}, retry=True)
        except StoppedError:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the server is going down"}, retry=True)
        except LateError:
            self._answer(HTTPStatus.GATEWAY_TIMEOUT, {"error": f"no score within {self.server.config.timeout_s:g} seconds"})
        except OSError:  # the client is gone or silent: there is nobody to answer
            raise
        except Exception as error:  # the model failed; the log has the traceback
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"scoring failed: {error}"})
        else:
            self._answer(HTTPStatus.OK, write(body, verdicts))

    def _gone(self) -> bool:
        """Has the client closed its connection? One that only sends no more is taken for gone, too."""
        try:
            return bool(select.select([self.connection], [], [], 0)[0]) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _body(self) -> dict[str, Any] | None:
        """The JSON object of the request; None when it was answered already. Raises BadRequestError."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            self._answer(HTTPStatus.LENGTH_REQUIRED, {"error": "Content-Length is needed"})
            return None
        if int(length) > self.server.config.max_body_mb * 1e6:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"more than {self.server.config.max_body_mb:g} MB"})
            return None
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            raise ConnectionError("the client left in the middle of its request")
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise BadRequestError(f"the body is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadRequestError("the body must be a JSON object")
        return body

    def _answer(self, status: HTTPStatus, body: dict[str, Any], retry: bool = False) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if retry:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted by /health, not printed."""
