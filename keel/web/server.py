"""Runs the app."""

from __future__ import annotations

import socket

from keel.feedback.db import Store
from keel.site import serving
from keel.web.app import make_app
from keel.web.cores import one_core
from keel.web.settings import WebSettings

READERS = 8  # threads for slow jobs: as many as the store keeps connections for; more would open and close one a call
MOST, GRACE = 2000, 5


def serve(store: Store, settings: WebSettings, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM; then finish what was asked and return. The store stays open."""
    app = make_app(store, settings)

    def stop() -> None:
        app.state.kit.stopping.set()
        app.state.board.measurer.close()

    with one_core():
        serving.serve(app, listening, stop, most=MOST, grace=GRACE, threads=READERS, behind_proxy=bool(settings.public_url))
