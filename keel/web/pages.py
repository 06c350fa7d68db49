"""The server's own pages: sign in, take part, the annotator's page, the API's page. What they do is in static files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from keel.core.errors import DataError
from keel.site.languages import LANGUAGES, language_of, remember
from keel.site.shared import HERE as COMMON
from keel.site.shared import jinja
from keel.web import members
from keel.web.apidoc import operations
from keel.web.kit import CallerDep, Kit, KitDep, MaybeDep, WebError, knock, off
from keel.web.lang import catalogue

HERE = Path(__file__).parent
router = APIRouter(include_in_schema=False)
_JINJA = jinja(HERE)


def render(request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
    """A page in the language of whoever asks; a language that the link names is remembered."""
    language = language_of(request) or "en"
    texts = catalogue(language)
    page = _JINJA.get_template(template).render(t=texts, lang=language, languages=LANGUAGES, path=request.url.path, **values)
    response = HTMLResponse(page, status)
    remember(request, response, language)
    return response


@router.get("/")
async def home(caller: MaybeDep) -> Response:
    if caller is None:
        return RedirectResponse("/login", 303)
    return RedirectResponse("/manage" if caller.account.role == "manager" else "/annotate", 303)


@router.get("/login")
async def login(request: Request) -> Response:
    return render(request, "login.html")


@router.get("/i/{token}")
async def invitation(token: str, request: Request, kit: KitDep, caller: MaybeDep) -> Response:
    """Looking at an invitation does not use it: programs that preview links look too."""
    knock(request, kit)
    given = {k: v for k, v in request.query_params.items() if k != "lang"}
    try:
        role, campaign, free = await off(_look_up, kit, token)
        name = members.platform_name(given) if given else ""
    except DataError as error:
        return render(request, "message.html", 404, message=error.message, hint=error.hint)
    here = "" if caller is None or caller.account.role != role else caller.account.name
    return render(request, "join.html", token=token, role=role, campaign=campaign, free=free, platform=given, platform_name=name, here=here)


@router.get("/annotate")
async def annotate(request: Request, caller: MaybeDep, c: str = "") -> Response:
    if caller is None:
        return RedirectResponse("/login", 303)
    return render(request, "annotate.html", campaign=c)


@router.get("/annotate/worker.js")
async def worker() -> Response:
    """What keeps the annotator's page when the network is gone; it may do so for /annotate alone."""
    headers = {"service-worker-allowed": "/annotate", "cache-control": "no-cache"}
    return FileResponse(HERE / "static" / "annotate" / "worker.js", media_type="text/javascript", headers=headers)


@router.get("/manage")
async def manage(request: Request, caller: MaybeDep, kit: KitDep) -> Response:
    found = await off(kit.store.campaigns)
    if caller is None or caller.account.role != "manager":
        return RedirectResponse("/login" if caller is None else "/", 303)
    if len(found) == 1:
        return RedirectResponse(f"/manage/{quote(found[0].name, safe='')}", 303)
    return render(request, "campaigns.html", campaigns=found)


@router.get("/manage/{campaign}")
async def board(campaign: str, request: Request, caller: MaybeDep, kit: KitDep) -> Response:
    if caller is None or caller.account.role != "manager":
        return RedirectResponse("/login" if caller is None else "/", 303)
    names = [c.name for c in await off(kit.store.campaigns)]
    if campaign not in names:
        return render(request, "message.html", 404, message=f"campaign {campaign!r} is not in the store", hint="")
    return render(request, "manage.html", campaign=campaign, several=len(names) > 1)


@router.get("/api")
async def api(request: Request) -> Response:
    """The API as a page, without anything from elsewhere."""
    schema = request.app.openapi()
    return render(request, "api.html", title=schema["info"]["title"], operations=operations(schema))


@router.get("/favicon.ico")
async def icon() -> Response:
    return FileResponse(COMMON / "static" / "site" / "icon.svg", media_type="image/svg+xml")


@router.get("/media/{digest}")
async def media(digest: str, caller: CallerDep, kit: KitDep) -> Response:
    """A picture by the hash of its bytes."""
    found = await off(kit.media.file, digest)
    if found is None:
        raise WebError(404, "unknown", "there is no such picture")
    headers = {"cache-control": "private, max-age=31536000, immutable", "content-security-policy": "default-src 'none'; sandbox"}
    return FileResponse(found[0], media_type=found[1], headers=headers)


def _look_up(kit: Kit, token: str) -> tuple[str, str, bool]:
    return kit.store.read(lambda c: members.look_up(c, token, kit.store.clock()))
