"""Runs the app: engines first, then one event loop until it is told to stop; then what was accepted is answered, and nothing new is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from keel.core.errors import ConfigError
from keel.serve.policy.front import Front
from keel.site.listening import LOOPBACK
from keel.site.protocol import EitherProtocol

log = logging.getLogger("keel")
SHORTEST_KEY = 16
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a request may be."""

    body_bytes: int
    body_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Door:
    """How the server is reached."""

    host: str
    port: int
    public_url: str
    limits: BodyLimits


def key_for(host: str, given: str, variable: str) -> str:
    """The key that clients must send; empty on this machine's own address, where none is set. Raises ConfigError for a short one."""
    if given and len(given) < SHORTEST_KEY:
        raise ConfigError(
            f"{variable} has {len(given)} characters", f"use {SHORTEST_KEY} or more, or leave it out and get a new one at each start"
        )
    return given or ("" if host in LOOPBACK else secrets.token_urlsafe(24))


class Server(uvicorn.Server):
    """The first signal lets what was accepted end; the second one does not wait."""

    def __init__(self, config: uvicorn.Config, front: Front) -> None:
        super().__init__(config)
        self._front = front
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: object) -> None:  # type: ignore[override]
        if self._front.stopping or self._draining is not None:
            super().handle_exit(sig, frame)  # type: ignore[arg-type]
            return
        self._front.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second by uvicorn."""
        if self._front.stopping and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        """Requests that come now are told to come again, so that none is cut off by a closing door."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._front.config.queue.drain_s
        held = sum(self._front.router.held.values())
        if held:
            log.info("stopping: %d answers are still being given", held)
        while any(self._front.router.held.values()) and loop.time() < deadline:
            await asyncio.sleep(_LOOK_S)
        self.should_exit = True


async def serve(app: Starlette, front: Front, listening: socket.socket, told: Callable[[], None]) -> None:
    """Answer until SIGINT or SIGTERM. ``told`` is called when the server answers. The engines are up already, and are ended here."""
    config = uvicorn.Config(
        app,
        http=EitherProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
        backlog=2048,
    )
    server = Server(config, front)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        if not running.done():
            told()
        await running
    finally:
        await asyncio.gather(*(engine.stop() for engine in front.router.engines.values()), return_exceptions=True)


def run(main: Callable[[], object]) -> None:
    """``main`` makes the coroutine; a signal that arrives while models are loaded ends it as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())  # type: ignore[arg-type]
