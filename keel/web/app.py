"""The app: routes, errors, guard. `server` runs it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from keel.core.version import VERSION
from keel.feedback.db import Store
from keel.site.guard import Guard
from keel.site.shared import static_files
from keel.web import annotate, lineage, manage, pages, people
from keel.web.board import Board
from keel.web.errors import answer_errors
from keel.web.kit import Kit
from keel.web.settings import WebSettings
from keel.web.short import Short

_ABOUT = "Judgements by people. Sign in by the page; every change needs the header X-CSRF with the value that /api/me tells."


class App(FastAPI):
    """``state.kit`` is what its routes work with. Guard and short way stand before everything that FastAPI puts around a call."""

    def build_middleware_stack(self) -> ASGIApp:
        """Called once, at the first request."""
        return Guard(Short(super().build_middleware_stack(), self.state), self.state.kit.settings)


def make_app(store: Store, settings: WebSettings) -> App:
    """The app over an open store, which stays its maker's to close."""
    app = App(title="Keel annotate", version=VERSION, description=_ABOUT, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.kit = Kit(store, settings)
    app.state.board = Board(app.state.kit)
    answer_errors(app)
    for part in (annotate, people, manage, lineage, pages):  # what is asked most stands first: routes are tried in order
        app.include_router(part.router)
    app.mount("/static", static_files(pages.HERE), "static")
    return app
