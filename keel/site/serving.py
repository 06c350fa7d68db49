"""Runs an app of pages: one process, one event loop, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable

import anyio.to_thread
import uvicorn
from starlette.types import ASGIApp

from keel.site.protocol import EitherProtocol


def serve(
    app: ASGIApp,
    listening: socket.socket,
    stop: Callable[[], None],
    *,
    most: int,
    grace: int,
    threads: int = 0,
    behind_proxy: bool = False,
) -> None:
    """Answer until SIGINT or SIGTERM; then finish what was asked and return.

    ``stop`` is called when the end is asked for, and once more at the end: streams that last as long as their page must end themselves.
    ``most``: connections at a time. ``grace``: seconds for what is being answered. ``threads`` for slow jobs, 0 for the usual number.
    ``behind_proxy``: somebody else's word about an address is believed, from this machine alone.
    """
    config = uvicorn.Config(
        app,
        http=EitherProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="127.0.0.1",
        timeout_graceful_shutdown=grace,
        timeout_keep_alive=75,
        limit_concurrency=most,
    )
    server = _Server(config, stop, threads)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what uvicorn raises again after its own end must not end us at once
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: Callable[[], None], threads: int) -> None:
        super().__init__(config)
        self._stop, self._threads = stop, threads

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._threads:
            anyio.to_thread.current_default_thread_limiter().total_tokens = self._threads
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: object) -> None:  # type: ignore[override]
        self._stop()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]
