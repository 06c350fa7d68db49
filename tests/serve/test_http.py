"""The server over real sockets on 127.0.0.1: every layout, every refusal, clients that die, many at once."""

from __future__ import annotations

import http.client
import json
import math
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from keel.serve.batcher import Batcher
from keel.serve.config import QueueConfig
from keel.serve.http import RewardServer
from keel.serve.layouts import Asked, Verdict

WAIT = 30.0


class Length:
    """Scores an answer by its length; an empty one cannot be scored. ``gate`` holds it back."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def __call__(self, asked: Sequence[Asked]) -> list[Verdict]:
        self.entered.release()
        assert self.gate.wait(WAIT)
        if any(a.answer == "crash" for a in asked):
            raise RuntimeError("out of luck")
        return [Verdict(float(len(a.answer)), std=0.5) if a.answer else Verdict(math.nan, "empty") for a in asked]


@pytest.fixture
def serve():
    servers: list[tuple[RewardServer, Length]] = []

    def start(**queue: Any) -> tuple[RewardServer, Length]:
        scorer = Length()
        config = QueueConfig(**queue)
        server = RewardServer(("127.0.0.1", 0), Batcher(scorer, config.batch, config.waiting), config, {"model": "length"})
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append((server, scorer))
        return server, scorer

    yield start
    for server, scorer in servers:
        scorer.gate.set()
        server.close()


def call(server: RewardServer, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=WAIT)
    try:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        found = answer.read()
        return answer.status, json.loads(found) if found else {}
    finally:
        connection.close()


def test_every_layout(serve) -> None:
    server, _ = serve()
    asked = {"items": [{"prompt": "Hi", "completion": "four"}, {"prompt": [{"role": "user", "content": "Hi"}], "completion": ""}]}
    assert call(server, "/score", asked) == (200, {"scores": [4.0, None], "errors": ["", "empty"], "std": [0.5, None]})
    status, found = call(server, "/get_reward", {"query": ["<p>abc", "xy"], "prompts": ["<p>", "no beginning"], "labels": ["", ""]})
    assert (status, found["rewards"], found["scores"]) == (200, [3.0, 2.0], [3.0, 2.0])
    assert call(server, "/get_reward", {"query": ["abc"]})[1]["rewards"] == [3.0]
    found = call(server, "/classify", {"model": "m", "input": "abcd", "activation": False})[1]
    assert (found["data"][-1]["probs"][-1], found["model"]) == (4.0, "m")
    assert [row["embedding"] for row in call(server, "/v1/embeddings", {"input": ["a", "bb"]})[1]["data"]] == [[1.0], [2.0]]


def test_health(serve) -> None:
    server, _ = serve()
    call(server, "/score", {"items": [{"prompt": "Hi", "completion": "four"}]})
    status, found = call(server, "/health")
    assert (status, found["status"], found["scored"], found["waiting"], found["model"]) == (200, "ok", 1, 0, "length")


@pytest.mark.parametrize(
    ("path", "raw", "status", "text"),
    [
        ("/nowhere", b"{}", 404, "post to one of /score"),
        ("/score", b"{", 400, "no JSON"),
        ("/score", b"[]", 400, "must be a JSON object"),
        ("/score", b'{"items": 3}', 400, "items must be a list, is int"),
        ("/score", b'{"items": [{"prompt": "a"}]}', 400, "items.0 must be an object"),
        ("/score", b'{"items": [{"prompt": 1, "completion": "b"}]}', 400, "items.0.prompt must be text"),
        ("/score", b'{"items": [{"prompt": [{"role": "user"}], "completion": "b"}]}', 400, "items.0.prompt.0 must have role"),
        ("/get_reward", b'{"query": ["a", 2]}', 400, "query.1 must be text, is int"),
        ("/get_reward", b'{"query": ["a"], "prompts": ["a", "b"]}', 400, "prompts must be a list of 1"),
        ("/classify", b'{"input": null}', 400, "input must be a list"),
    ],
)
def test_bad_requests_are_named(serve, path: str, raw: bytes, status: int, text: str) -> None:
    server, _ = serve()
    found = call(server, path, raw=raw)
    assert found[0] == status
    assert text in found[1]["error"]
    assert call(server, "/health")[0] == 200


def test_a_model_that_fails_and_a_request_that_is_too_large(serve) -> None:
    server, _ = serve(max_body_mb=0.001)
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "crash"}]})[0] == 500
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "b" * 2000}]})[0] == 413
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "b"}]})[0] == 200


def test_a_full_queue_says_so_at_once(serve) -> None:
    server, scorer = serve(waiting=2, batch=1)
    scorer.gate.clear()
    first = threading.Thread(target=call, args=(server, "/score", {"items": [{"prompt": "a", "completion": "b"}] * 2}))
    first.start()
    assert scorer.entered.acquire(timeout=WAIT)
    status, found = call(server, "/score", {"items": [{"prompt": "a", "completion": "c"}]})
    assert (status, "ask again" in found["error"]) == (503, True)
    assert call(server, "/health")[1]["refused"] == 1, "health answers while the model works"
    scorer.gate.set()
    first.join(WAIT)
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "c"}]})[0] == 200


def test_a_request_that_takes_too_long(serve) -> None:
    server, scorer = serve(timeout_s=0.05)
    scorer.gate.clear()
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "b"}]})[0] == 504


def test_too_many_connections_are_refused_and_silent_ones_are_ended(serve) -> None:
    server, _ = serve(connections=2, read_timeout_s=1.0)
    port = server.server_address[1]
    silent = [socket.create_connection(("127.0.0.1", port), timeout=WAIT) for _ in range(2)]
    for s in silent:
        s.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    for _ in range(200):
        try:
            status = call(server, "/health")[0]
        except OSError:
            status = 503
        if status == 503:
            break
    assert status == 503, "there was room for a third"
    for s in silent:
        assert s.recv(1000) == b"", "a client that falls silent is hung up on"
        s.close()
    for _ in range(200):
        try:
            if call(server, "/health")[0] == 200:
                return
        except OSError:
            pass
    raise AssertionError("no room again")


def test_clients_that_die_at_any_point_do_no_harm(serve) -> None:
    server, scorer = serve()
    port = server.server_address[1]
    whole = b'{"items": [{"prompt": "a", "completion": "b"}]}'
    request = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: " + str(len(whole)).encode() + b"\r\n\r\n" + whole
    for cut in (0, 5, 40, len(request) - 3):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as s:
            s.sendall(request[:cut])
    scorer.gate.clear()
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as s:
        s.sendall(request)
        assert scorer.entered.acquire(timeout=WAIT)
    scorer.gate.set()  # the answer meets nobody
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "bb"}]})[1]["scores"] == [2.0]
    assert call(server, "/health")[1]["status"] == "ok"


def test_nothing_is_computed_for_a_client_that_died_waiting(serve) -> None:
    server, scorer = serve(batch=1)
    scorer.gate.clear()
    first = threading.Thread(target=call, args=(server, "/score", {"items": [{"prompt": "a", "completion": "b"}]}))
    first.start()
    assert scorer.entered.acquire(timeout=WAIT)
    whole = b'{"items": [{"prompt": "a", "completion": "crash"}]}'
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=WAIT) as s:
        s.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: " + str(len(whole)).encode() + b"\r\n\r\n" + whole)
        for _ in range(3000):
            if server.batcher.waiting == 2:
                break
            threading.Event().wait(0.01)
    jobs = list(server.batcher._jobs)
    assert len(jobs) == 1
    for _ in range(3000):
        if jobs[0].future.cancelled():
            break
        threading.Event().wait(0.01)
    scorer.gate.set()
    first.join(WAIT)
    assert call(server, "/score", {"items": [{"prompt": "a", "completion": "bb"}]})[1]["scores"] == [2.0]
    health = call(server, "/health")[1]
    assert (health["scored"], health["passes"], health["abandoned"]) == (2, 2, 1)


def test_many_clients_at_once_each_get_their_own(serve) -> None:
    server, _ = serve(batch=16, waiting=4096)
    wrong: list[Any] = []

    def client(k: int) -> None:
        for i in range(10):
            answers = ["x" * (1 + (k * 31 + i * 7 + j) % 90) for j in range(1 + (k + i) % 5)]
            status, found = call(server, "/score", {"items": [{"prompt": str(k), "completion": a} for a in answers]})
            if status != 200 or found["scores"] != [float(len(a)) for a in answers]:
                wrong.append((k, i, status, found))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(WAIT)
    assert wrong == []
    health = call(server, "/health")[1]
    assert health["scored"] == sum(1 + (k + i) % 5 for k in range(12) for i in range(10))
    assert health["waiting"] == 0
