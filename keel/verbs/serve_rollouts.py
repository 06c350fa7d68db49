"""`keel serve rollouts --port N`: an engine that draws rollouts for a training elsewhere (`sampler.server.urls`)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

import torch

from keel.core.errors import ConfigError, UserError
from keel.rollout.server.engine import Engine
from keel.rollout.server.http import EngineServer

_PORT = 8100


def run_serve_rollouts(host: str, port: int | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM; returns what was done. The model and its settings come from the training that asks."""
    if overrides:
        raise ConfigError(f"keel serve rollouts has no settings, and {overrides[0]} is one", "the training's recipe has them (sampler.*)")
    host = host or "127.0.0.1"
    try:
        server = EngineServer((host, _PORT if port is None else port), Engine())
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror or error}", "another program may be there: set --port") from None
    bound = server.server_address[1]
    print(f"an engine at http://{host}:{bound} on {'cuda' if torch.cuda.is_available() else 'cpu'}; it waits for a training", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("whoever reaches this address can have it read model folders: keep it inside a network of your own", flush=True)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    stopped.wait()
    server.shutdown()
    server.server_close()
    return {"drawn": server.engine.drawn}
