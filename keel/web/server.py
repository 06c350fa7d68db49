"""Runs the app: one process, one event loop, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable

import anyio.to_thread
import uvicorn

from keel.feedback.db import Store
from keel.web.app import make_app
from keel.web.cores import one_core
from keel.web.settings import WebSettings

READERS = 8  # threads for slow jobs: as many as the store keeps connections for; more would open and close one a call


def serve(store: Store, settings: WebSettings, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM; then finish what was asked and return. The store stays open."""
    app = make_app(store, settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=bool(settings.public_url),  # only then is somebody else's word about an address believed, and only from this machine
        forwarded_allow_ips="127.0.0.1",
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
        limit_concurrency=2000,
    )

    def stop() -> None:
        app.state.kit.stopping.set()
        app.state.board.measurer.close()

    server = _Server(config, stop)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what uvicorn raises again after its own end must not end us at once
    with one_core(), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = READERS
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: object) -> None:  # type: ignore[override]
        self._stopping()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]
