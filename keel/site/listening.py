"""Where a server listens."""

from __future__ import annotations

import socket

from keel.core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes one that is free. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(2048)
    except (OSError, OverflowError) as error:
        made.close()
        raise ConfigError(f"--host {host} --port {port}: {error}", "choose another port; 0 takes one that is free") from None
    return made


def address_of(host: str, port: int) -> str:
    """What links to a server on this machine begin with."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}"
