"""What the server's own pages say, one catalogue a language beside this file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from starlette.requests import Request

LANGUAGES = ("en", "zh")
COOKIE = "keel-language"


@cache
def catalogue(language: str) -> dict[str, str]:
    """Texts by key."""
    return json.loads((Path(__file__).parent / f"{language}.json").read_text(encoding="utf-8"))


def chosen(request: Request) -> str:
    """The language that the person chose; empty when they did not."""
    asked = request.query_params.get("lang", "") or request.cookies.get(COOKIE, "")
    return asked if asked in LANGUAGES else ""


def language_of(request: Request, default: str = "") -> str:
    """The language that the person chose, else ``default``, else the first known one that the browser wants; empty when it wants none of
    them."""
    return chosen(request) or default or _browsers(request)


def _browsers(request: Request) -> str:
    wanted: list[tuple[float, str]] = []
    for part in request.headers.get("accept-language", "").split(","):
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), name[:2].lower()))
        except ValueError:
            continue
    return next((name for _, name in sorted(wanted, key=lambda w: w[0]) if name in LANGUAGES), "")
