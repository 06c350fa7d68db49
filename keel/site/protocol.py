"""HTTP/1.1 by uvicorn's fast parser, 1.0 by its other one: the fast one answers what has no length in chunks whoever asks, and a client
of HTTP/1.0 (a proxy, by its defaults) reads their sizes as part of the answer. The request line says which one takes the connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Fast
except ImportError:  # the other one does all of it
    Fast = H11Protocol

_LONGEST_LINE = 1 << 16  # bytes of a request line; the parser refuses a longer one itself


class EitherProtocol(asyncio.Protocol):
    """What ``uvicorn.Config(http=...)`` takes. A connection is the parser's own from its first line on."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._made = (config, server_state, app_state, _loop)
        self._state, self._first = server_state, b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(cast(Any, self))

    def data_received(self, data: bytes) -> None:
        self._first += data
        line, there, _ = self._first.lstrip(b"\r\n").partition(b"\n")
        if not there and len(self._first) < _LONGEST_LINE:
            return
        assert self._transport is not None
        config, server_state, app_state, loop = self._made
        kind = H11Protocol if line.rstrip().endswith(b"HTTP/1.0") else Fast
        protocol = kind(config=config, server_state=server_state, app_state=app_state, _loop=loop)
        self._state.connections.discard(cast(Any, self))
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(cast(Any, self))

    def shutdown(self) -> None:
        """The server ends: nobody has asked anything here."""
        if self._transport is not None:
            self._transport.close()
