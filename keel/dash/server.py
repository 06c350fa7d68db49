"""Runs the dashboard."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import webbrowser
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, RunError
from keel.dash.app import make_app
from keel.dash.settings import DashSettings
from keel.site import serving
from keel.site.listening import LOOPBACK, listen

TOKEN = "KEEL_DASH_TOKEN"  # the variable with a token that stays the same from start to start
SHORTEST = 16
MOST, GRACE = 500, 2


def run_dash(folder: str = "runs", host: str = "127.0.0.1", port: int = 8767, browser: bool = True) -> dict[str, Any]:
    """Serve until Ctrl-C. Raises RunError for a folder that is not there, ConfigError for an address that cannot be had."""
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"no such folder: {root}", "give the folder that holds your runs: keel dash FOLDER")
    token = "" if host in LOOPBACK else os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    if token and len(token) < SHORTEST:
        raise ConfigError(
            f"{TOKEN} has {len(token)} characters", f"use {SHORTEST} or more, or leave it out and get a new one at each start"
        )
    listening = listen(host, port)
    try:
        settings = DashSettings(root.resolve(), host, listening.getsockname()[1], token)
        print(f"runs in {root}: {settings.link}", flush=True)
        if token:
            print("whoever has this link can read every run in the folder", flush=True)
        if browser and not token:
            threading.Timer(0.3, webbrowser.open, [settings.link]).start()
        serve(settings, listening)
    finally:
        listening.close()
    return {"folder": folder, "host": host, "port": settings.port}


def serve(settings: DashSettings, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM."""
    app = make_app(settings)
    serving.serve(app, listening, app.state.stopping.set, most=MOST, grace=GRACE)
