"""vLLM or SGLang as a process beside us, where it is installed: started, waited for, asked over its own protocol, started again."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from keel.core.errors import ConfigError, ModelError
from keel.serve.policy.config import ProbeConfig
from keel.serve.policy.engine import LONGEST_PAUSE_S, environment
from keel.serve.policy.frames import About, Piece, Row
from keel.serve.policy.remote import RemoteEngine

log = logging.getLogger("keel")
_COMMANDS: dict[str, tuple[str, ...]] = {
    # by itself vLLM takes top_k and penalties of the model's generation_config.json for requests that name none
    "vllm": (
        *("-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
        *("--generation-config", "vllm"),
    ),
    "sglang": ("-m", "sglang.launch_server", "--model-path", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
}
_TO_END_S = 20.0


def command_of(engine: str, model: str, port: int, dtype: str) -> list[str]:
    """The command line of a server, without the interpreter. ``dtype``: float32 or bfloat16; by themselves these servers round float32
    weights to bfloat16, and what is served would not be what was evaluated. Raises ConfigError where it is not installed, or cannot read
    the model."""
    if importlib.util.find_spec(engine) is None:
        raise ConfigError(f"engine={engine}: {engine} is not installed", f"pip install {engine}, or engine=keel")
    folder = Path(model)
    if model.startswith(("tiny:", "package:")) or folder.suffix == ".gguf":
        raise ConfigError(f"engine={engine} reads folders with weights and ids, not {model}", "save it as a folder first, or engine=keel")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(f"{model} has no config.json, which engine={engine} needs", "an adapter is merged with: keel export merged")
    return [*(part.format(model=model, port=port) for part in _COMMANDS[engine]), "--dtype", dtype]


def threads_of(engine: str, threads: int | None) -> dict[str, str]:
    """Variables that keep it to so many threads, where the user has not set them."""
    wanted = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    if threads and engine == "vllm":
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else it binds one to each processor
    return {name: value for name, value in wanted.items() if name not in os.environ}


class LaunchedEngine:
    """A server that lives as long as we do. One that ends is started again."""

    def __init__(self, command: Sequence[str], port: int, model: str, probe: ProbeConfig, more: Mapping[str, str] | None = None) -> None:
        """``command``: of `command_of`; ``more``: variables of its environment."""
        self.command = list(command)
        self._env = {**environment(), **(more or {})}
        self._probe = probe
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._remote = RemoteEngine(f"http://127.0.0.1:{port}", model, start_s=probe.load_s)
        self._stopping = False
        self.restarts = 0

    @property
    def about(self) -> About:
        return self._remote.about

    @property
    def alive(self) -> bool:
        return self._remote.alive

    async def start(self) -> None:
        """Raises ModelError when the server ends before it answers; its own words are on standard error."""
        await self._launch()
        self._keeper = asyncio.create_task(self._keep())

    async def _launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "keel.serve.policy.tied", *self.command),
            stdin=asyncio.subprocess.PIPE,  # closes when we end
            start_new_session=True,
            env=self._env,
        )
        ended, ready = asyncio.create_task(self._process.wait()), asyncio.create_task(self._remote.start())
        try:
            await asyncio.wait([ended, ready], return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise ModelError(f"{self.command[1]} ended with {ended.result()}", "see what it wrote above")
            await ready
        except BaseException:
            await self._end()
            raise
        finally:
            ended.cancel()
            ready.cancel()

    async def _keep(self) -> None:
        """Start it again when it is gone."""
        pause, began = self._probe.restart_s, time.monotonic()
        while True:
            assert self._process is not None
            await self._process.wait()
            await self._end()
            while not self._stopping:
                log.warning("%s ended; it starts again", self.command[1])
                self.restarts += 1
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * max(pause, 0.1)) if time.monotonic() - began < 10 * pause else self._probe.restart_s
                began = time.monotonic()
                try:
                    await self._launch()
                    break
                except (ModelError, OSError) as error:
                    log.warning("it does not start: %s", error)
            if self._stopping:
                return

    def ask(self, row: Row) -> AsyncIterator[Piece]:
        return self._remote.ask(row)

    async def _end(self) -> None:
        """It and all that it started are gone after this: what is left of a killed server may hold memory and ports."""
        self._remote.gone()
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TO_END_S):
                    await process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def stop(self) -> None:
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end()
        await self._remote.stop()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return made.getsockname()[1]
