"""From errors to what a program and a person are told. Every refusal is {"error": {"code", "message", "todo"}}."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from keel.core.errors import DataError, UserError
from keel.feedback.db import ConflictError, NoLeaseError, RowError
from keel.feedback.writer import ClosedError
from keel.web.kit import told

log = logging.getLogger("keel")


def refusal(error: UserError) -> tuple[int, dict[str, dict[str, str]]]:
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
    return status, told(name, error.message, error.hint)


def answer_to(error: Exception) -> JSONResponse | None:
    """What is answered to an error that has a meaning; None for one that nobody foresaw."""
    if isinstance(error, UserError):
        status, body = refusal(error)
        return JSONResponse(body, status)
    if isinstance(error, HTTPException):
        detail: Any = error.detail
        body = detail if isinstance(detail, dict) else told(f"http_{error.status_code}", str(detail))
        return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))
    if isinstance(error, ClosedError):
        return JSONResponse(told("closing", "the server is closing", "send it again"), 503, {"Retry-After": "2"})
    if isinstance(error, OperationalError):
        log.warning("the database refused: %s", error.orig)
        return JSONResponse(told("database", "the database is busy", "send it again"), 503, {"Retry-After": "2"})
    return None


def unforeseen(error: Exception) -> JSONResponse:
    """What is answered to any other error, which is logged."""
    log.error("a request failed", exc_info=error)
    return JSONResponse(told("server", "something went wrong here", "send it again"), 500)


def answer_errors(app: FastAPI) -> None:
    """Teach an app to say what went wrong."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return answer_to(error) or unforeseen(error)

    for kind in (UserError, HTTPException, ClosedError, OperationalError):
        app.add_exception_handler(kind, known)

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(str(x) for x in e['loc'][1:]) or 'the body'}: {e['msg']}" for e in error.errors())
        return JSONResponse(told("field", said, "see /api"), 400)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return unforeseen(error)
