"""An engine over HTTP: ``POST /load``, ``/draw`` and ``/logprobs``, ``GET /health``. One thread computes; the others wait their turn."""

from __future__ import annotations

import logging
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from keel.rollout.records import packed
from keel.rollout.server import wire
from keel.rollout.server.engine import Engine, StaleError
from keel.rollout.server.turns import Turns

log = logging.getLogger("keel")
_MOST = 1 << 31  # bytes of a body
_QUIET_S = 60.0  # that a client may fall silent in the middle of a request


class EngineServer(ThreadingHTTPServer):
    """Serves one engine."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], engine: Engine) -> None:
        self.engine, self.turns = engine, Turns()
        engine.give_way = self.turns.give_way
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error of the server's."""
        log.info("a connection from %s ended early", client_address[0] if client_address else "?")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EngineServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(_QUIET_S)

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(HTTPStatus.OK, wire.write(self.server.engine.about()))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"{self.path}: there is only /health here")

    def do_POST(self) -> None:
        act = {"/load": self._load, "/draw": self._draw, "/logprobs": self._logprobs}.get(self.path)
        length = self.headers.get("Content-Length", "")
        if act is None or not length.isdigit() or int(length) > _MOST:
            self.close_connection = True  # the body is not read
            self._refuse(HTTPStatus.NOT_FOUND, f"{self.path}: post to /load, /draw or /logprobs, with a Content-Length")
            return
        body = self.rfile.read(int(length))
        try:
            plain, tensors = wire.read(body)
            with self.server.turns.taken(short=act != self._draw):
                answer = act(plain, tensors)
        except StaleError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except (wire.WireError, KeyError, ValueError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Exception as error:  # the model failed: the asker is told, the log has the traceback
            log.exception("%s failed", self.path)
            message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, message)
        else:
            self._answer(HTTPStatus.OK, answer)

    def _load(self, plain: dict[str, Any], tensors: dict[str, Any]) -> bytes:
        return wire.write({"digest": self.server.engine.load(Path(plain["folder"]), plain["version"])})

    def _draw(self, plain: dict[str, Any], tensors: dict[str, Any]) -> bytes:
        asked = wire.read_requests(plain, tensors)
        found = self.server.engine.draw(asked, plain["digest"], plain["version"], plain["in_flight"])
        joined, rows = packed(found)
        return wire.write({"rollouts": rows}, joined)

    def _logprobs(self, plain: dict[str, Any], tensors: dict[str, Any]) -> bytes:
        return wire.write({"logprobs": self.server.engine.logprobs(plain["tokens"])})

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._answer(status, wire.write({"error": why}))

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed for each request."""
