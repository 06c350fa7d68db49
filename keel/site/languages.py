"""The language of a page: the person's choice, else what the browser wants."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

LANGUAGES = ("en", "zh")
COOKIE = "keel-language"


def chosen(request: Request) -> str:
    """The language that the person chose; empty when they did not."""
    asked = request.query_params.get("lang", "") or request.cookies.get(COOKIE, "")
    return asked if asked in LANGUAGES else ""


def language_of(request: Request, default: str = "") -> str:
    """The language that the person chose, else ``default``, else the first known one that the browser wants; empty when it wants none of
    them."""
    return chosen(request) or default or _browsers(request)


def remember(request: Request, response: Response, language: str) -> None:
    """A language that the link names is kept for a year."""
    if request.query_params.get("lang") and chosen(request):
        response.set_cookie(COOKIE, language, 366 * 86400, samesite="lax", httponly=True)


def _browsers(request: Request) -> str:
    wanted: list[tuple[float, str]] = []
    for part in request.headers.get("accept-language", "").split(","):
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), name[:2].lower()))
        except ValueError:
            continue
    return next((name for _, name in sorted(wanted, key=lambda w: w[0]) if name in LANGUAGES), "")
