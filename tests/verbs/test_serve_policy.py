"""`keel serve policy` as it is used: a process, its workers, OpenAI's own client, requests under way when somebody is killed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
ROOT = Path(__file__).resolve().parents[2]
WAIT = 600.0  # a bound for what hangs: workers load models, on busy machines slowly
MODEL = "tiny:llama?seed=1"


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *settings: str, model: str = MODEL) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url, self.out = f"http://127.0.0.1:{port}", folder / "out.txt"
        command = [sys.executable, "-m", "keel.cli", "serve", "policy", model]
        command += ["--port", str(port), "threads=1", *settings, "--json"]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        until(lambda: b"serving" in self.out.read_bytes() or self.process.poll() is not None)
        assert self.process.poll() is None, self.out.read_text()

    def workers(self) -> dict[str, int]:
        """Processes of the arms, by the order of their start."""
        listed = ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)]
        found = subprocess.run(listed, capture_output=True, text=True, check=False).stdout
        pids = sorted(int(line.split()[0]) for line in found.splitlines() if "serve_policy.worker" in line)
        return dict(zip(("stable", "canary"), pids))

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=WAIT)

    def close(self) -> int:
        """Told to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT)


def until(condition) -> None:
    for _ in range(int(WAIT * 20)):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    made: list[Served] = []

    def start(*settings: str, **more: Any) -> Served:
        made.append(Served(tmp_path, *settings, **more))
        return made[-1]

    yield start
    for server in made:
        server.close()


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns, in a loop and a thread of its own: a browser of another test may have a loop in this one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()


def body(i: int, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"Question {i}"}], "seed": i, "user": f"user-{i}", **more}


async def ask_all(server: Served, bodies: list[dict[str, Any]], meanwhile=None) -> list[Any]:
    """All at once; ``meanwhile`` is called when the first tokens are there."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=WAIT, limits=limits) as client:

        async def one(asked: dict[str, Any]) -> Any:
            while (answer := await client.post(server.url + "/v1/chat/completions", json=asked)).status_code == 429:
                await asyncio.sleep(0.1)
            return answer

        tasks = [asyncio.create_task(one(asked)) for asked in bodies]
        if meanwhile is not None:
            await asyncio.to_thread(until, lambda: server.get("/health").json()["arms"]["stable"]["held"] > 0)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(meanwhile)
        return await asyncio.gather(*tasks)


def texts(answers: list[Any]) -> list[str]:
    assert [a.status_code for a in answers] == [200] * len(answers)
    return [a.json()["choices"][0]["message"]["content"] for a in answers]


def picture(colour: str) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (30, 30), colour).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}}


@pytest.mark.slow
def test_images_go_from_openai_s_client_to_the_model_and_back(served) -> None:
    """Over HTTP and through a worker's process: the answer hangs on what is in the picture; what is no picture is refused."""
    openai = pytest.importorskip("openai")
    name = "tiny:llava?seed=1&std=0.3"
    server = served("queue.image_mpx=0.5", model=name)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=WAIT)

    def asked(*pictures: dict[str, Any], **more: Any) -> Any:
        content = [*pictures, {"type": "text", "text": "What colour?"}]
        messages = [{"role": "user", "content": content}]
        return client.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=6, **more)

    def logprob(*pictures: dict[str, Any]) -> float:
        return asked(*pictures, logprobs=True).choices[0].logprobs.content[0].logprob

    red, blue = logprob(picture("red")), logprob(picture("blue"))
    assert red == pytest.approx(logprob(picture("#ff0000")), abs=1e-5)
    assert abs(red - blue) > 1e-3
    assert abs(red - logprob(picture("red"), picture("blue"))) > 1e-3
    whole = asked(picture("red"), picture("blue"))
    parts = list(asked(picture("red"), picture("blue"), stream=True))
    assert "".join(p.choices[0].delta.content or "" for p in parts) == whole.choices[0].message.content
    assert whole.usage.prompt_tokens > asked(picture("red")).usage.prompt_tokens > asked().usage.prompt_tokens
    for wrong, said in (("data:image/png;base64,AAAA", "image"), ("https://example.com/a.png", "none is fetched")):
        with pytest.raises(openai.BadRequestError, match=said):
            asked({"type": "image_url", "image_url": {"url": wrong}})
    large = io.BytesIO()
    Image.new("1", (1000, 1000)).save(large, "PNG")
    with pytest.raises(openai.APIStatusError, match="megapixels") as refused:
        asked({"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(large.getvalue()).decode()}})
    assert refused.value.status_code == 413
    assert asked(picture("blue")).choices[0].message.content is not None  # nobody else suffers from it


def test_openai_s_client_and_a_stop_under_load(served) -> None:
    openai = pytest.importorskip("openai")
    server = served("queue.rows=8", "queue.waiting=64")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=WAIT)
    assert [m.id for m in client.models.list()] == [MODEL]
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello, 你好"}], "max_tokens": 12, "seed": 4}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    assert client.completions.create(model=MODEL, prompt="Hello", max_tokens=3, temperature=0).choices[0].text
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        client.chat.completions.create(**asked, presence_penalty=1.0)
    with pytest.raises(openai.NotFoundError, match="gpt"):
        client.chat.completions.create(**{**asked, "model": "gpt"})
    bodies = [body(i, max_tokens=60) for i in range(40)]
    alone = texts(finish(ask_all(server, bodies)))
    stopped = finish(ask_all(server, bodies, lambda: server.process.send_signal(signal.SIGTERM)))
    answered = [a for a in stopped if a.status_code == 200]
    refused = [a for a in stopped if a.status_code != 200]
    assert answered, "what was taken is answered"
    assert all(a.status_code == 503 and a.headers["retry-after"] for a in refused), "what came after is told to come again"
    for answer, text in zip(stopped, alone, strict=True):
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["message"]["content"] == text
    assert server.close() == 0
    assert json.loads(server.out.read_text().splitlines()[-1])["requests"] >= 40
    assert server.workers() == {}


@pytest.mark.slow
def test_a_canary_s_worker_that_is_killed_costs_nobody_an_answer(served) -> None:
    canary = "canary={model: 'tiny:llama?seed=2', share: 0.5, guards: {least: 3, silence_s: 60}}"
    server = served("queue.rows=16", "queue.waiting=64", "probe.restart_s=1", canary)
    bodies = [body(i, max_tokens=80) for i in range(40)]
    before = texts(finish(ask_all(server, bodies)))
    metrics = server.get("/metrics").text
    shares = [float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("keel_requests_total") and 'status="200"' in line]
    assert len(shares) == 2
    assert sum(shares) == 40
    canary_pid = server.workers()["canary"]
    after = texts(finish(ask_all(server, bodies, lambda: os.kill(canary_pid, signal.SIGKILL))))
    assert sum(a == b for a, b in zip(before, after, strict=True)) >= 10, "those of the stable arm are the same"
    until(lambda: not server.get("/health").json()["canary"]["active"])
    health = server.get("/health").json()
    assert "failed" in health["canary"]["reason"]
    assert "keel_rollbacks_total 1.0" in server.get("/metrics").text
    assert server.get("/ready").status_code == 200


def test_the_only_worker_killed_under_load_is_started_again_and_goes_on(served) -> None:
    server = served("queue.rows=8", "probe.restart_s=0.1")
    bodies = [body(i, max_tokens=80) for i in range(12)]
    whole = texts(finish(ask_all(server, bodies)))

    def stop_then_kill() -> None:
        pid = server.workers()["stable"]
        os.kill(pid, signal.SIGSTOP)
        answer = server.get("/ready")
        assert answer.status_code == 503
        os.kill(pid, signal.SIGKILL)

    assert texts(finish(ask_all(server, bodies, stop_then_kill))) == whole
    assert server.get("/ready").status_code == 200
    assert server.get("/health").json()["arms"]["stable"]["restarts"] == 1


def test_a_verdict_under_load_loses_nobody_and_what_was_acknowledged_outlives_a_kill(served, tmp_path: Path) -> None:
    """The new model is taken back while it answers; then the server itself is killed in the middle of thumbs."""
    verdict, state, store = tmp_path / "verdict.json", tmp_path / "state.json", f"sqlite:///{tmp_path / 'f.db'}"
    verdict.write_text('{"answer": "cannot_tell"}', encoding="utf-8")
    canary = f"canary={{model: 'tiny:llama?seed=2', share: 0.5, verdict: '{verdict}', state: '{state}'}}"
    server = served("queue.rows=16", canary, f"feedback.store={store}")
    waited: list[float] = []

    def decide() -> None:
        assert server.get("/health").json()["canary"]["active"]
        beside = tmp_path / "verdict.new"
        beside.write_text('{"answer": "not_better"}', encoding="utf-8")
        os.replace(beside, verdict)
        began = time.monotonic()
        until(lambda: not server.get("/health").json()["canary"]["active"])
        waited.append(time.monotonic() - began)

    answers = finish(ask_all(server, [body(i, max_tokens=100) for i in range(30)], decide))
    assert len(texts(answers)) == 30
    print(f"rolled back {waited[0]:.2f} s after the verdict")
    assert "not better" in json.loads(state.read_text(encoding="utf-8"))["reason"]
    finish(ask_all(server, [body(i, max_tokens=2) for i in range(10)]))
    assert server.get("/health").json()["arms"]["canary"]["held"] == 0

    worker = server.workers()["stable"]
    kept: list[str] = []
    for i, answer in enumerate(answers):
        said = {"id": answer.json()["id"], "rating": "up", "consent": {"store": True, "train": True}, "by": f"user-{i}"}
        if i == 20:
            server.process.send_signal(signal.SIGKILL)
        try:
            kept.append(httpx.post(server.url + "/v1/feedback", json=said, timeout=WAIT).json()["event_id"])
        except httpx.HTTPError:
            break
    server.process.wait(WAIT)
    from keel.feedback.db import Store

    with Store(store) as opened:
        stored = {j.event_id for j in opened.judgements("served-thumbs")}
    assert len(kept) >= 20
    assert set(kept) <= stored
    until(lambda: not Path(f"/proc/{worker}").exists())  # a worker does not outlive its front


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/such/folder"], "no/such/folder"),
        ([MODEL, "canary={model: x, shar: 1}"], "shar"),
        ([MODEL, "engine=sglang"], "is not installed"),
        ([MODEL, "engine=ftp://x"], "engine"),
        ([MODEL, "filters=nothing.yaml"], "nothing.yaml"),
        ([MODEL, "drift.reference=nothing.jsonl", "drift.window=50"], "nothing.jsonl"),
        (["recipe-that-is-not.yaml"], "recipe-that-is-not.yaml"),
    ],
)
def test_a_mistake_is_one_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from keel.cli import main

    with ThreadPoolExecutor(1) as other:
        assert other.submit(main, ["serve", "policy", *words, "--port", "0"]).result() == 2
    assert said in capsys.readouterr().err
