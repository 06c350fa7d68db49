"""The manager's part of the API. Whatever changes something is written into the audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from starlette.concurrency import iterate_in_threadpool

from keel.core.errors import ConfigError
from keel.feedback import schema
from keel.feedback.db import Store
from keel.feedback.people import ACCOUNT_ROLES
from keel.feedback.rows import annotator_row, dumps, task_line
from keel.web.board import Board
from keel.web.bodies import AccessIn, InviteIn, PauseIn, RetractIn
from keel.web.kit import Caller, Kit, KitDep, ManagerDep, WebError, off
from keel.web.members import own_code, state_of

router = APIRouter(tags=["manager"])
TICK = 2.0  # seconds between two looks of a page that is kept up to date
_PART = 500


async def board_of(request: Request) -> Board:
    return request.app.state.board


BoardDep = Annotated[Board, Depends(board_of)]


@router.get("/api/manage/{campaign}")
async def overview(campaign: str, _: ManagerDep, board: BoardDep) -> dict[str, Any]:
    """Counts and measures of a campaign, of now."""
    return await board.measured(campaign)


@router.get("/api/manage/{campaign}/live")
async def live(campaign: str, caller: ManagerDep, kit: KitDep, board: BoardDep) -> StreamingResponse:
    """The same as server-sent events, whenever something changed, until the session ends."""
    await board.look(campaign)
    if kit.streams >= kit.settings.limits.streams:
        raise WebError(429, "often", "too many pages are kept up to date", "close some", 10)
    return StreamingResponse(_stream(campaign, caller, kit, board), media_type="text/event-stream")


async def _stream(campaign: str, caller: Caller, kit: Kit, board: Board) -> AsyncIterator[str]:
    kit.streams += 1
    sent, quiet = "", 0
    try:
        while not kit.stopping.is_set():
            who = await kit.caller(caller.token)
            if who is None or who.account.role != "manager":
                return
            said = json.dumps(await board.look(campaign))
            if said != sent:
                sent, quiet = said, 0
                yield f"data: {said}\n\n"
            elif (quiet := quiet + 1) % 8 == 0:
                yield ": here\n\n"
            await _sleep(kit)
    finally:
        kit.streams -= 1


async def _sleep(kit: Kit) -> None:
    """`TICK` seconds, or until the server stops."""
    for _ in range(10):
        if kit.stopping.is_set():
            return
        await asyncio.sleep(TICK / 10)


@router.get("/api/manage/{campaign}/people")
async def everybody(campaign: str, _: ManagerDep, kit: KitDep) -> dict[str, Any]:
    """The accounts of a campaign: role, state, completion code, whether they may sign in."""
    return {"people": await off(_everybody, kit.store, campaign)}


@router.post("/api/manage/{campaign}/pause")
async def pause(campaign: str, body: PauseIn, caller: ManagerDep, kit: KitDep, board: BoardDep) -> dict[str, Any]:
    """Stop giving out items, or go on."""
    await off(lambda: kit.store.update_campaign(campaign, paused=body.paused))
    await _note(kit, caller, "paused" if body.paused else "resumed", campaign=campaign)
    board.soon(campaign)
    return {"paused": body.paused}


@router.post("/api/manage/{campaign}/invitations")
async def invite(campaign: str, body: InviteIn, caller: ManagerDep, kit: KitDep) -> dict[str, Any]:
    """A link with which people make accounts. It is shown once: the database keeps its hash alone."""
    if body.role not in ACCOUNT_ROLES:
        raise ConfigError(f"role {body.role!r} is unknown", f"known: {', '.join(ACCOUNT_ROLES)}")
    found = await off(kit.store.campaign, campaign)
    seconds = body.days * 86400.0
    token = await off(kit.store.invite, body.role, found.name, body.uses, seconds, caller.account.name)
    await _note(kit, caller, "invited", campaign=campaign, role=body.role, uses=body.uses, days=body.days)
    return {"link": f"{kit.settings.base}/i/{token}", "role": body.role, "uses": body.uses, "days": body.days}


@router.post("/api/manage/access")
async def access(body: AccessIn, caller: ManagerDep, kit: KitDep) -> dict[str, Any]:
    """Close an account (its sessions end at once) or open it again. Its judgements stay."""
    if body.name == caller.account.name:
        raise ConfigError("you cannot close your own account", "another manager can")
    await off(lambda: kit.store.change_account(body.name, disabled=body.disabled))
    kit.forget_sessions()
    await _note(kit, caller, "closed account" if body.disabled else "opened account", account=body.name)
    return {"name": body.name, "disabled": body.disabled}


@router.post("/api/manage/{campaign}/retract")
async def retract(campaign: str, body: RetractIn, caller: ManagerDep, kit: KitDep, board: BoardDep) -> dict[str, Any]:
    """Take back all judgements of an annotator, in every campaign. Nothing is deleted; items that lost a vote open again."""
    await off(kit.store.campaign, campaign)
    lost = await off(lambda: kit.store.retract(annotator=body.annotator, why=body.why, who=caller.account.name))
    await _note(kit, caller, "retracted", annotator=body.annotator, why=body.why, tasks=len(lost))
    board.soon(campaign)
    return {"annotator": body.annotator, "tasks": len(lost)}


@router.get("/api/manage/{campaign}/export")
async def export(campaign: str, caller: ManagerDep, kit: KitDep, what: Literal["judgements", "tasks", "annotators"] = "judgements") -> Any:
    """Rows as JSONL, all of them, in Keel's own form: judgements in the order in which they came."""
    await off(kit.store.campaign, campaign)
    await _note(kit, caller, "exported", campaign=campaign, rows=what)
    rows = {"judgements": _judgements, "tasks": _tasks, "annotators": _annotators}[what](kit.store, campaign)
    safe = "".join(ch if ch.isascii() and (ch.isalnum() or ch in "-_") else "_" for ch in campaign) or "campaign"
    headers = {"content-disposition": f'attachment; filename="{safe}-{what}.jsonl"'}
    return StreamingResponse(iterate_in_threadpool(rows), media_type="application/x-ndjson", headers=headers)


@router.get("/api/manage-audit")
async def audit(_: ManagerDep, kit: KitDep, n: int = 100) -> dict[str, Any]:
    """Who did what, newest first."""
    return {"audit": await off(kit.store.audit, max(1, min(n, 1000)))}


def _judgements(store: Store, campaign: str) -> Iterator[str]:
    """A part at a time: an export of any size holds nobody up and needs no memory."""
    j, after = schema.judgement, 0
    while True:
        part = select(j.c.seq, j.c.body).where(j.c.seq > after, j.c.campaign == campaign).order_by(j.c.seq).limit(_PART)
        rows = store.read(lambda c, part=part: c.execute(part).all())
        if not rows:
            return
        after = rows[-1].seq
        yield "".join(f"{row.body}\n" for row in rows)


def _tasks(store: Store, campaign: str) -> Iterator[str]:
    t, after = schema.task, -1
    while True:
        part = (
            select(t.c.task_id, t.c.position, t.c.role, t.c.urgency)
            .where(t.c.campaign == campaign, t.c.position > after)
            .order_by(t.c.position)
            .limit(_PART)
        )
        rows = store.read(lambda c, part=part: c.execute(part).all())
        if not rows:
            return
        after = rows[-1].position
        tasks = store.tasks([r.task_id for r in rows])
        yield "".join(f"{dumps(task_line(task, r.role, -r.urgency))}\n" for task, r in zip(tasks, rows, strict=True))


def _annotators(store: Store, campaign: str) -> Iterator[str]:
    j = schema.judgement
    said = store.read(lambda c: set(c.execute(select(j.c.annotator).where(j.c.campaign == campaign).distinct()).scalars()))
    yield "".join(f"{dumps(annotator_row(a))}\n" for a in store.annotators() if a.annotator_id in said)


def _everybody(store: Store, campaign: str) -> list[dict[str, Any]]:
    found, rows = store.campaign(campaign), list[dict[str, Any]]()
    for a in store.accounts():
        state = state_of(store, a.annotator, campaign)
        if state or a.role != "annotator":
            code = own_code(store, found.name, a.annotator) if state else ""
            rows.append({"name": a.name, "role": a.role, "disabled": a.disabled, "state": state, "code": code})
    return rows


async def _note(kit: Kit, caller: Caller, what: str, **detail: Any) -> None:
    await off(lambda: kit.store.note(caller.account.name, what, **detail))
