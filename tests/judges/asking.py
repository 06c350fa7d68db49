"""Questions, and a server of the chat protocol on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from keel.judges.ask import Question
from keel.types import Candidate, Message, Prompt

Reply = Callable[[dict[str, Any]], "tuple[int, dict[str, str], Any]"]


def question(first: str = "one two", second: str = "three", prompt: str = "Count.", **more: Any) -> Question:
    """A pair; the prompt's id follows from its text."""
    asked = Prompt(f"p-{prompt}", (Message("user", prompt),))
    return Question(asked, (Candidate("a", first), Candidate("b", second)), **more)


def single(text: str, kind: Any = "pointwise", **more: Any) -> Question:
    return Question(Prompt("p", (Message("user", "Count."),)), (Candidate("a", text),), kind, **more)


def completion(text: str, top: dict[str, float] | None = None, usage: tuple[int, int] | None = (100, 1)) -> dict[str, Any]:
    """A chat completion. ``top``: log-probabilities of the first token."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    if top is not None:
        rows = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
        choice["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
    found: dict[str, Any] = {"choices": [choice]}
    return found | ({"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {})


class Server:
    """Answers by a function of the request's body; keeps all bodies and how many were in work at once."""

    def __init__(self) -> None:
        self.reply: Reply = lambda body: (200, {}, completion("A", {"A": -0.1, "B": -3.0}))
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most = self._now = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers.items()))
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                status, headers, found = outer.reply(body)
                with lock:
                    outer._now -= 1
                data = json.dumps(found).encode() if not isinstance(found, bytes) else found
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that is gone (killed, out of patience) is what some tests are about."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
