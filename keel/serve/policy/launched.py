"""vLLM or SGLang as a process beside us, where it is installed: started, waited for, asked over its own protocol."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import sys
from collections.abc import AsyncIterator, Sequence

from keel.core.errors import ConfigError, ModelError
from keel.serve.policy.frames import About, Piece, Row
from keel.serve.policy.remote import RemoteEngine

_COMMANDS: dict[str, tuple[str, ...]] = {
    "vllm": ("-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
    "sglang": ("-m", "sglang.launch_server", "--model-path", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
}
_LOADING_S = 1800.0


def command_of(engine: str, model: str, port: int, dtype: str) -> list[str]:
    """The command line of a server. ``dtype``: float32 or bfloat16; by themselves these servers round float32 weights to bfloat16, and what
    is served would not be what was evaluated. Raises ConfigError where it is not installed."""
    if importlib.util.find_spec(engine) is None:
        raise ConfigError(f"engine={engine}: {engine} is not installed", f"pip install {engine}, or engine=keel")
    return [sys.executable, *(part.format(model=model, port=port) for part in _COMMANDS[engine]), "--dtype", dtype]


class LaunchedEngine:
    """A server that lives as long as we do."""

    def __init__(self, command: Sequence[str], port: int, model: str) -> None:
        self.command = list(command)
        self._process: asyncio.subprocess.Process | None = None
        self._remote = RemoteEngine(f"http://127.0.0.1:{port}", model, start_s=_LOADING_S)
        self.restarts = 0

    @property
    def about(self) -> About:
        return self._remote.about

    @property
    def alive(self) -> bool:
        return self._remote.alive

    async def start(self) -> None:
        """Raises ModelError when the server ends before it answers; its own words are on standard error."""
        self._process = await asyncio.create_subprocess_exec(*self.command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True)
        ended, ready = asyncio.create_task(self._process.wait()), asyncio.create_task(self._remote.start())
        await asyncio.wait([ended, ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise ModelError(f"{self.command[2]} ended with {ended.result()}", "see what it wrote above")
        ended.cancel()
        await ready

    def ask(self, row: Row) -> AsyncIterator[Piece]:
        return self._remote.ask(row)

    async def stop(self) -> None:
        await self._remote.stop()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return made.getsockname()[1]
