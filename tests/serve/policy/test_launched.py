"""A server that is started beside us: killed it is started again, and nothing of it outlives us, however we end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import finish, until

from keel.core.errors import ConfigError, ModelError
from keel.serve.policy import launched
from keel.serve.policy.config import ProbeConfig
from keel.serve.policy.frames import Row
from keel.serve.policy.launched import LaunchedEngine, command_of, free_port, threads_of
from keel.serve.policy.requests import RequestError, read_request

SERVER = str(Path(__file__).with_name("server_without_model.py"))
PROBE = ProbeConfig(restart_s=0.0, load_s=120.0)


def engine_in(folder: Path) -> LaunchedEngine:
    port = free_port()
    return LaunchedEngine([SERVER, str(port), str(folder)], port, "m", PROBE)


def pids(folder: Path) -> list[list[int]]:
    """The server's process and the one below it, of each start."""
    return [json.loads(f.read_text()) for f in sorted(folder.glob("*.json"), key=lambda f: f.stat().st_mtime_ns)]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


async def said(engine: LaunchedEngine) -> str:
    return "".join([piece.text async for piece in engine.ask(Row("r", prompt="x", max_tokens=9))])


def test_killed_it_is_started_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def run() -> None:
        engine = engine_in(tmp_path)
        await engine.start()
        first, below = pids(tmp_path)[0]
        assert await said(engine) == str(first)
        assert engine.about.context == 512
        os.kill(first, signal.SIGKILL)
        await until(lambda: engine.restarts == 1 and engine.alive)
        second, _ = pids(tmp_path)[1]
        assert await said(engine) == str(second) != str(first)
        await until(lambda: ended(below))
        await engine.stop()
        await until(lambda: all(ended(pid) for pair in pids(tmp_path) for pid in pair))

    finish(run())


def test_one_that_does_not_start_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "broken").touch()
        engine = engine_in(tmp_path)
        with pytest.raises(ModelError, match="ended with 7"):
            await engine.start()
        await until(lambda: all(ended(pid) for pair in pids(tmp_path) for pid in pair))

    finish(run())


def test_all_of_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio
from keel.serve.policy.config import ProbeConfig
from keel.serve.policy.launched import LaunchedEngine, free_port
async def main():
    port = free_port()
    await LaunchedEngine([{SERVER!r}, str(port), {str(tmp_path)!r}], port, "m", ProbeConfig()).start()
    print("up", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.wait()
    asyncio.run(until(lambda: all(ended(pid) for pair in pids(tmp_path) for pid in pair)))


def test_models_that_only_keel_reads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched.importlib.util, "find_spec", lambda name: name)
    for model in ("tiny:llama", "package:a/b.gguf", "m.gguf"):
        with pytest.raises(ConfigError, match=r"reads folders with weights and ids"):
            command_of("vllm", model, 1, "float32")
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        command_of("vllm", str(tmp_path), 1, "float32")
    (tmp_path / "config.json").touch()
    assert command_of("vllm", str(tmp_path), 1, "float32")[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert command_of("sglang", "org/name", 1, "float32")[3] == "org/name"


def test_threads_are_kept_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    assert threads_of("vllm", None) == {}
    assert threads_of("sglang", 2) == {"OMP_NUM_THREADS": "2"}
    assert threads_of("vllm", 2) == {"OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    assert threads_of("vllm", 2) == {"OMP_NUM_THREADS": "2"}


def test_tools_are_no_matter_of_the_template_there() -> None:
    from keel.serve.policy.config import RowsConfig
    from keel.serve.policy.frames import About

    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}]}
    with pytest.raises(RequestError, match="tools are not passed on to another server"):
        read_request("chat", body, "m", About("m", details={"url": "http://127.0.0.1:1"}), RowsConfig())


@pytest.mark.parametrize("arms", [{"engine": "vllm"}, {"engine": "http://127.0.0.1:1"}, {"canary": {"model": "m", "engine": "sglang"}}])
def test_how_messages_become_tokens_is_said_to_keels_own_engine_alone(arms: dict[str, Any]) -> None:
    """Another server would serve without that system prompt, and nobody would see it."""
    from keel.serve.policy.config import ServePolicyConfig

    with pytest.raises(ValueError, match="render would have no effect on"):
        ServePolicyConfig.model_validate({"model": "m", "render": {"system": "Be brief."}, **arms})
    ServePolicyConfig.model_validate({"model": "m", **arms})
    ServePolicyConfig.model_validate({"model": "m", "render": {"system": "Be brief."}})
