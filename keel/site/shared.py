"""Templates and static files: a server's own, and behind them what all have."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).parent
mimetypes.add_type("text/javascript", ".js")  # some machines say text/plain, which nosniff forbids
mimetypes.add_type("text/javascript", ".mjs")


def jinja(room: Path) -> Environment:
    """Templates of a room, on top of the common ones. Everything is escaped."""
    folders = [room / "templates", HERE / "templates"]
    return Environment(loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def static_files(room: Path) -> StaticFiles:
    """Files of a room, on top of the common ones."""
    return StaticFiles(directory=room / "static", packages=[("keel.site", "static")])
