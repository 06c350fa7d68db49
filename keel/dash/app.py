"""The dashboard's routes: pages, the JSON that they ask for, the stream of what is new. All of them read."""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keel.dash import answers, checks, live, tokens, views
from keel.dash.folder import Folder, Run
from keel.dash.settings import DashSettings
from keel.site.guard import Guard
from keel.site.languages import LANGUAGES, language_of, remember
from keel.site.shared import HERE as COMMON
from keel.site.shared import jinja, static_files

HERE = Path(__file__).parent
_JINJA = jinja(HERE)
THREADS = 8  # that read files for pages; each one more costs memory
_OPEN = ("/static/", "/favicon.ico")  # what has no word of any run in it


@cache
def catalogue(language: str) -> dict[str, str]:
    """Texts by key."""
    return json.loads((HERE / "lang" / f"{language}.json").read_text(encoding="utf-8"))


class Refusal(HTTPException):
    """What cannot be answered, in words."""

    def __init__(self, status: int, code: str, message: str, todo: str = "") -> None:
        super().__init__(status, message)
        self.body = {"error": {"code": code, "message": message, "todo": todo}}


class Token:
    """ASGI: without the token nothing is answered. A link that has it leaves a cookie and goes on without it."""

    def __init__(self, app: ASGIApp, settings: DashSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = self.settings.token
        if scope["type"] != "http" or not token or str(scope["path"]).startswith(_OPEN):
            return await self.app(scope, receive, send)
        request = Request(scope)
        given = request.query_params.get("token", "")
        if _same(given, token) and request.method == "GET":
            rest = urlencode([(k, v) for k, v in request.query_params.multi_items() if k != "token"])
            answer: Response = RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(self.settings.cookie, self.settings.mark, 30 * 86400, samesite="strict", httponly=True)
            return await answer(scope, receive, send)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if _same(request.cookies.get(self.settings.cookie, ""), self.settings.mark) or _same(bearer, token):
            return await self.app(scope, receive, send)
        if "text/html" in request.headers.get("accept", ""):
            answer = page(request, "closed.html", 401)
        else:
            answer = reply(
                {"error": {"code": "token", "message": "this needs the token", "todo": "open the link that keel dash printed"}}, 401
            )
        await answer(scope, receive, send)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def page(request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
    """A page in the language of whoever asks."""
    language = language_of(request) or "en"
    texts = catalogue(language)
    made = HTMLResponse(
        _JINJA.get_template(template).render(t=texts, lang=language, languages=LANGUAGES, path=request.url.path, **values), status
    )
    remember(request, made, language)
    return made


def reply(content: Any, status: int = 200) -> Response:
    """JSON without NaN."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
    return Response(body, status, media_type="application/json")


def _folder(request: Request) -> Folder:
    return request.app.state.folder


def _runs(request: Request) -> list[Run]:
    """The runs that ``r`` names. Raises Refusal for one that is not there, for none, and for too many."""
    names = list(dict.fromkeys(request.query_params.getlist("r")))
    most = request.app.state.settings.limits.runs
    if not names or len(names) > most:
        raise Refusal(400, "runs", f"from 1 to {most} runs can be shown together", "choose some in the list")
    found = [_folder(request).get(name) for name in names]
    missing = [name for name, run in zip(names, found) if run is None]
    if missing:
        raise Refusal(404, "run", f"no such run: {', '.join(missing)[:200]}", "look at the list of runs")
    return [run for run in found if run is not None]


def _number(request: Request, name: str) -> float | None:
    text = request.query_params.get(name, "")
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise Refusal(400, name, f"{name} must be a number, is {text[:40]!r}")
    return value


def _json(work: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """A call that reads files, on a thread of its own."""

    async def answer(request: Request) -> Response:
        return await run_in_threadpool(lambda: reply(work(request)))

    return answer


def _overview(request: Request) -> Any:
    return views.overview(_runs(request))


def _curves(request: Request) -> Any:
    asked: list[Any] = []
    for text in request.query_params.getlist("c"):
        try:
            one = json.loads(text)
        except (ValueError, RecursionError):
            one = None
        if not (isinstance(one, str) or (isinstance(one, list) and one and all(isinstance(n, str) for n in one))):
            raise Refusal(400, "c", "c must be a list of metrics in JSON, or the name of a distribution")
        asked.append(one)
    if not 0 < len(asked) <= request.app.state.settings.limits.charts:
        raise Refusal(400, "c", f"from 1 to {request.app.state.settings.limits.charts} pictures a call")
    pixels = min(2000, max(20, int(_number(request, "px") or 500)))
    low, high = _number(request, "low"), _number(request, "high")
    if low is not None and high is not None and low > high:
        raise Refusal(400, "low", "low must not be above high")
    return views.curves(_runs(request), asked, low, high, pixels, request.query_params.get("pool") == "1")


def _events(request: Request) -> Any:
    return views.events(_runs(request))


def _compare(request: Request) -> Any:
    return views.compare(_runs(request))


def _about(request: Request) -> Any:
    return views.about(_runs(request)[0], _folder(request))


def _checks(request: Request) -> Any:
    return checks.view(_runs(request)[0])


def _prompts(request: Request) -> Any:
    return answers.prompts(_runs(request))


def _samples(request: Request) -> Any:
    steps = [s for text in request.query_params.getlist("step")[:12] if (s := _float(text)) is not None]
    prompt = request.query_params.get("prompt", "")
    return {"runs": [answers.over_time(run, prompt, steps) for run in _runs(request)]}


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _worst(request: Request) -> Any:
    return {"runs": [answers.worst(run, 30) for run in _runs(request)]}


def _tokens(request: Request) -> Any:
    return tokens.view(_runs(request)[0], request.query_params.get("file", ""))


def _search(request: Request) -> Any:
    return answers.search(_folder(request), request.query_params.get("q", "")[:200])


def _list(request: Request) -> Any:
    folder = _folder(request)
    return {"root": str(folder.root), "rows": [run.row() for run in folder.runs()]}


async def _stream(request: Request) -> Response:
    state = request.app.state
    if state.streams >= state.settings.limits.streams:
        raise Refusal(429, "streams", "too many pages are open", "close some")
    if request.query_params.getlist("r"):
        runs = await run_in_threadpool(_runs, request)
        at = request.headers.get("last-event-id", "") or request.query_params.get("at", "")
        look: live.Follower | live.Listing = await run_in_threadpool(live.Follower, runs, live.cursors_of(at, len(runs)))
    else:
        look = live.Listing(_folder(request))

    async def counted() -> AsyncIterator[bytes]:
        state.streams += 1
        try:
            async for piece in live.stream(look, state.stopping.is_set, live.TICK if request.query_params.getlist("r") else 1.0):
                yield piece
        finally:
            state.streams -= 1

    return StreamingResponse(counted(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _home(request: Request) -> Response:
    return page(request, "runs.html", root=str(_folder(request).root))


async def _view(request: Request) -> Response:
    await run_in_threadpool(_runs, request)
    return page(request, "view.html")


async def _icon(_: Request) -> Response:
    return FileResponse(COMMON / "static" / "site" / "icon.svg", media_type="image/svg+xml")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error.body if isinstance(error, Refusal) else {"error": {"code": str(error.status_code), "message": error.detail, "todo": ""}}
    if request.url.path.startswith("/api/"):
        return reply(body, error.status_code)
    return page(request, "message.html", error.status_code, message=body["error"]["message"], hint=body["error"]["todo"])


def make_app(settings: DashSettings) -> Starlette:
    """The app over a folder of runs. ``app.state`` of the inner one has the folder and the event that ends its streams."""
    calls: Sequence[tuple[str, Callable[[Request], Any]]] = (
        ("list", _list), ("view", _overview), ("curves", _curves), ("events", _events), ("compare", _compare), ("about", _about),
        ("prompts", _prompts), ("samples", _samples), ("worst", _worst), ("tokens", _tokens), ("search", _search), ("checks", _checks),
    )  # fmt: skip
    routes = [
        Route("/", _home),
        Route("/view", _view),
        Route("/favicon.ico", _icon),
        Route("/api/stream", _stream),
        *(Route(f"/api/{name}", _json(work)) for name, work in calls),
        Mount("/static", static_files(HERE), name="static"),
    ]
    for name in ("runs.html", "view.html"):
        _JINJA.get_template(name)  # compiled before the first page is asked for
    stopping = threading.Event()
    folder = Folder(settings.root)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        reader = threading.Thread(target=_read_on, args=(folder, stopping), daemon=True)
        reader.start()
        yield
        stopping.set()

    app = Starlette(routes=routes, lifespan=life, exception_handlers={HTTPException: _refused})
    app.state.settings, app.state.folder, app.state.stopping, app.state.streams = settings, folder, stopping, 0
    app.add_middleware(Token, settings=settings)
    app.add_middleware(Guard, settings=settings)
    return app


def _read_on(folder: Folder, stopping: threading.Event) -> None:
    """Read long files to their ends, a piece of each at a time, while pages already show their previews."""
    while not stopping.wait(0.05):
        for run in folder.unread():
            if stopping.is_set():
                return
            if run.read_on():
                run.preview = None
