"""The client of a reward server: what it sends in each layout, what it makes of every kind of answer, and of none."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from keel.rewards.composition.rewards import Reward, apply_rewards
from keel.rewards.sources.remote import RemoteReward, RemoteSource
from keel.types import Encoded, Group, MediaRef, Message, Prompt, Rollout, empty_group


def rollout(i: int, text: str, failed: bool = False) -> Rollout:
    tokens = torch.tensor([100 + i, 3])
    zero = torch.zeros(2, dtype=torch.int64)
    return Rollout("p", 0, i, tokens, zero.bool() | True, zero.float(), zero, "error" if failed else "stop", text)


def group(*texts: str, failed: int = -1, **prompt: Any) -> Group:
    rollouts = [rollout(i, t, i == failed) for i, t in enumerate(texts)]
    asked = Prompt("p", **(prompt or {"text": "What?"}), meta={"ground_truth": "4"})
    return empty_group(asked, Encoded(torch.tensor([1, 2])), rollouts)


def decode(tokens_T: torch.Tensor) -> str:
    return "".join(f"<{int(t)}>" for t in tokens_T)


class Server:
    """Gives prepared (status, body) answers, in order, and keeps what it was sent."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers, self.seen = list(answers), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((self.path, json.loads(raw)))
                status, body = outer.answers.pop(0)
                if status == 0:  # dies in the middle of its answer
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
                    return
                found = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            def log_message(self, *_: Any) -> None: ...

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def server():
    made: list[Server] = []

    def start(*answers: tuple[int, Any]) -> Server:
        made.append(Server(*answers))
        return made[-1]

    yield start
    for s in made:
        s.http.shutdown()
        s.http.server_close()


def source(url: str, **settings: Any) -> RemoteSource:
    return RemoteSource(RemoteReward(name="far", url=url, **settings), decode, pause=lambda _: None)


WHOLE = ["<1><2><100><3>", "<1><2><101><3>"]


@pytest.mark.parametrize(
    ("layout", "path", "sent", "answer"),
    [
        (
            "keel",
            "/score",
            {"items": [{"prompt": "What?", "completion": "a"}, {"prompt": "What?", "completion": "b"}]},
            {"scores": [1.5, -2.0], "errors": ["", ""]},
        ),
        (
            "openrlhf",
            "/get_reward",
            {"query": WHOLE, "prompts": ["<1><2>"] * 2, "labels": ["4", "4"]},
            {"rewards": [1.5, -2.0], "scores": [9, 9], "extra_logs": {}},
        ),
        (
            "vllm",
            "/classify",
            {"model": "m", "input": WHOLE, "activation": False, "use_activation": False},
            {"data": [{"probs": [1.5]}, {"probs": [0.0, -2.0]}]},
        ),
        ("sglang", "/v1/embeddings", {"model": "m", "input": WHOLE}, {"data": [{"embedding": [1.5]}, {"embedding": [-2.0]}]}),
    ],
)
def test_layouts(server, layout: str, path: str, sent: Any, answer: Any) -> None:
    far = server((200, answer))
    (scores,) = source(far.url + "/", layout=layout, served_model="m").score([group("a", "b")])
    assert scores.tolist() == [1.5, -2.0]
    assert far.seen == [(path, sent)]


def test_messages_go_out_as_messages(server) -> None:
    far = server((200, {"scores": [0.0]}))
    source(far.url).score([group("a", messages=(Message("system", "Be kind."), Message("user", "What?")))])
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What?"}]
    assert far.seen[0][1] == {"items": [{"prompt": prompt, "completion": "a"}]}


def test_many_answers_go_in_several_requests_and_failed_rollouts_not_at_all(server) -> None:
    far = server((200, {"scores": [1.0, 2.0]}), (200, {"scores": [3.0]}))
    first, second = source(far.url, batch=2).score([group("a", "gone", "b", failed=1), group("c")])
    assert first.nan_to_num(-1.0).tolist() == [1.0, -1.0, 2.0]
    assert second.tolist() == [3.0]
    assert [len(body["items"]) for _, body in far.seen] == [2, 1]


def test_a_full_server_is_asked_again_and_one_that_dies_too(server, caplog) -> None:
    far = server((503, {"error": "full"}), (0, None), (200, {"scores": [1.0]}))
    assert source(far.url, attempts=3).score([group("a")])[0].tolist() == [1.0]
    assert len(far.seen) == 3


def test_the_pauses_grow(server) -> None:
    far = server(*[(503, {})] * 4)
    pauses: list[float] = []
    RemoteSource(RemoteReward(name="far", url=far.url, attempts=4), decode, pause=pauses.append).score([group("a")])
    assert pauses == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(503, {"error": "full"})] * 2, "the server answers 503: full"),
        ([(400, {"error": "items.0 is wrong"})], "the server answers 400: items.0 is wrong"),
        ([(500, b"<html>oops</html>")], "the server answers 500: <html>oops</html>"),
        ([(200, b"no json")], "no JSON"),
        ([(200, [1])], "no JSON object"),
        ([(200, {"rewards": [1]})], "not of layout keel: KeyError 'scores'"),
        ([(200, {"scores": ["high"]})], "not of layout keel: ValueError"),
        ([(200, {"scores": [1.0, 2.0]})], "2 scores for 1 answers"),
        ([(200, {"scores": [None], "errors": ["too long"]})], "the server: too long"),
    ],
)
def test_no_score_is_a_failure_and_never_a_low_score(server, answers: list, said: str, caplog: pytest.LogCaptureFixture) -> None:
    far = server(*answers)
    (judged,) = apply_rewards([group("a")], [Reward(source(far.url, attempts=2))])
    assert judged.valid_G.tolist() == [False]
    assert judged.parts["far"].isnan().all()
    assert said in caplog.text
    assert len(far.seen) == len(answers), "what will not change is not asked again"


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    (scores,) = source("http://127.0.0.1:9", attempts=2).score([group("a")])
    assert scores.isnan().all()
    assert "does not answer" in caplog.text


def test_images_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    pictured = group("a")
    pictured = empty_group(pictured.prompt, Encoded(torch.tensor([1]), (MediaRef("x", 1),)), pictured.rollouts)
    assert source("http://127.0.0.1:9").score([pictured])[0].isnan().all()
    assert "holds images" in caplog.text
