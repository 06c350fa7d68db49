"""From errors to what a program and a person are told. Every refusal is {"error", "message", "hint"}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from keel.core.errors import ConfigError, DataError, UserError
from keel.feedback.db import ConflictError, NoLeaseError, RowError
from keel.feedback.writer import ClosedError

log = logging.getLogger("keel")


def refusal(error: UserError) -> tuple[int, dict[str, str]]:
    """(status, body) of a mistake."""
    status, name = 400, "wrong"
    if isinstance(error, ConflictError):
        status, name = 409, "conflict"
    elif isinstance(error, NoLeaseError):
        status, name = 403, "not_given"
    elif isinstance(error, RowError):
        name = "field"
    elif isinstance(error, DataError) and "is not in the store" in error.message:
        status, name = 404, "unknown"
    elif not isinstance(error, DataError | ConfigError):
        name = "wrong"
    return status, {"error": name, "message": error.message, "hint": error.hint}


def answer_errors(app: FastAPI) -> None:
    """Teach an app to say what went wrong."""

    @app.exception_handler(UserError)
    async def mistake(_: Request, error: UserError) -> JSONResponse:
        status, body = refusal(error)
        return JSONResponse(body, status)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        detail: Any = error.detail
        body = detail if isinstance(detail, dict) else {"error": f"http_{error.status_code}", "message": str(detail), "hint": ""}
        return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(str(x) for x in e['loc'][1:]) or 'the body'}: {e['msg']}" for e in error.errors())
        return JSONResponse({"error": "field", "message": said, "hint": "see /api"}, 400)

    @app.exception_handler(ClosedError)
    async def closing(_: Request, __: ClosedError) -> JSONResponse:
        return JSONResponse({"error": "closing", "message": "the server is closing", "hint": "send it again"}, 503, {"Retry-After": "2"})

    @app.exception_handler(OperationalError)
    async def database(_: Request, error: OperationalError) -> JSONResponse:
        log.warning("the database refused: %s", error.orig)
        return JSONResponse({"error": "database", "message": "the database is busy", "hint": "send it again"}, 503, {"Retry-After": "2"})

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return JSONResponse({"error": "server", "message": "something went wrong here", "hint": "send it again"}, 500)
