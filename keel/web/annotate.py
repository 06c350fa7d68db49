"""The annotator's part of the API: items, answers, corrections, guidelines."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy import Connection, and_, select

from keel.core.errors import UserError
from keel.feedback import schema
from keel.feedback.answers import answer_from, answer_row, from_display
from keel.feedback.db import Given, Item, NoLeaseError, Receipt
from keel.feedback.leases import lease_of
from keel.feedback.rows import RowError, judgement_from
from keel.types import Answer, Choice
from keel.web.blind import names_itself
from keel.web.bodies import BatchIn, JudgementIn, UndoIn
from keel.web.errors import refusal
from keel.web.kit import Caller, CallerDep, Kit, KitDep, WebError, off
from keel.web.media import images_of
from keel.web.members import check_member, completion, has_earned
from keel.web.protocol import check_protocol

router = APIRouter(tags=["annotator"])
MANY, SPREAD = 20, 3  # from so many people on, at most 2 items fewer than asked, by chance: who began together does not ask again together
ITEMS = 5  # given out unless another number is asked for
Number = Annotated[int, Query(ge=1)]  # of items that are asked for: with none asked for, "nothing is left" would mean nothing
UNDO = 20  # of a person's last events, so many may be corrected


@router.get("/api/campaigns/{campaign}/items")
async def items(campaign: str, caller: CallerDep, kit: KitDep, n: Number = ITEMS) -> JSONResponse:
    """At most ``n`` items: those that the person has open first. ``end`` is there when nothing is left for them."""
    return JSONResponse(await give_items(kit, caller, campaign, n))  # as it is: looking through it again takes longer than making it


@router.get("/api/campaigns/{campaign}/adjudications")
async def adjudications(campaign: str, caller: CallerDep, kit: KitDep, n: Number = 5) -> dict[str, Any]:
    """Items whose votes disagree, for adjudicators: as blind as the others, without the votes."""
    found = await off(kit.store.campaign, campaign)
    count = min(n, kit.settings.limits.items)
    given = await off(kit.store.next_adjudications, caller.account.annotator, campaign, count)
    shown = await off(lambda: [show(kit, item) for item in given])
    return {"campaign": campaign, "state": "passed", "paused": found.paused, "items": shown, "protocol": kit.keep(found).protocol}


@router.post("/api/judgements")
async def judge(body: JudgementIn, caller: CallerDep, kit: KitDep) -> JSONResponse:
    """Store one answer. The same event again is answered alike; the same event with another answer is 409."""
    return JSONResponse(await store_one(kit, caller, body))


@router.post("/api/judgements/batch")
async def judge_many(body: BatchIn, caller: CallerDep, kit: KitDep) -> dict[str, Any]:
    """Several answers, each for itself: one that is refused does not hinder the others."""
    limit = kit.settings.limits.batch
    if len(body.judgements) > limit:
        raise WebError(413, "large", f"a batch may have {limit} answers", "send fewer at a time")
    results: list[dict[str, Any]] = []
    for one in body.judgements:
        try:
            results.append({"event_id": one.event_id, "status": 200, **await store_one(kit, caller, one)})
        except UserError as error:
            status, detail = refusal(error)
            results.append({"event_id": one.event_id, "status": status, "stored": False, **detail})
    return {"results": results}


@router.post("/api/undo")
async def undo(body: UndoIn, caller: CallerDep, kit: KitDep) -> dict[str, Any]:
    """Without an answer: the item of one of the person's last answers, to be shown again with what they said; nothing is stored.

    With an answer: the correction, a new event that replaces the old one, which is kept. So does /api/judgements with ``replaces``.

    With ``take_back``: the event ``event_id`` takes the old one back with nothing in its place. It no longer counts, the item is open, and
    the next answer to it names this event in ``replaces``.
    """
    if body.take_back and body.answer:
        raise RowError("take_back", "is for an item without a new answer")
    if body.take_back:
        return await off(_take_back, kit, caller, body)
    return await (store_one(kit, caller, body) if body.answer else off(_reopen, kit, caller, body))


@router.get("/api/guidelines/{version}")
async def guideline(version: str, caller: CallerDep, kit: KitDep) -> dict[str, Any]:
    """The text of a version of the guideline (Markdown), with the weights of the dimensions."""
    text, weights = await off(kit.store.guideline, version)
    return {"version": version, "text": text, "weights": weights}


async def give_items(kit: Kit, caller: Caller, campaign: str, n: int) -> dict[str, Any]:
    """Items for the caller, as the page is told. Raises UserError, NoLeaseError."""
    annotator, count = caller.account.annotator, min(n, kit.settings.limits.items)
    if kit.people >= MANY and count > SPREAD:
        count -= random.randrange(SPREAD)
    job = kit.store.giving(annotator, campaign, count, lambda c: check_member(c, caller.account, campaign))
    given = await kit.store.write_async(job)
    kit.remember(given.leases)
    at_hand = all(map(kit.media.knows, pictures(given.items)))
    told = _told(kit, given) if at_hand else await off(_told, kit, given)
    if not given.items and not told["paused"]:
        told |= await off(_ended, kit, annotator, campaign)
    return told


async def store_one(kit: Kit, caller: Caller, body: JudgementIn) -> dict[str, Any]:
    """Store an answer of the caller; what the page is told. Raises UserError, ConflictError, NoLeaseError."""
    annotator = caller.account.annotator
    answer = _answer(body)

    def prepared() -> Any:
        lease = kit.lease(annotator, body.handle)
        task, page = kit.store.task(lease.task_id), kit.campaign(lease.campaign).page
        check_protocol(answer, page)
        if page.reason == "required" and not body.reason.strip():
            raise RowError("reason", "is missing: this campaign asks for one")
        unmasked = any(names_itself(c.text) for c in task.candidates)
        more: Mapping[str, Any] = {"blind": False} if unmasked else {}
        said = {"active_ms": body.active_ms, "reason": body.reason, "replaces": body.replaces, "meta": more}
        return kit.store.answering(annotator, body.handle, body.event_id, answer, lease=lease, **said), lease, task

    job, lease, task = prepared() if kit.at_hand(annotator, body.handle) else await off(prepared)
    receipt: Receipt = await kit.store.write_async(job)
    told: dict[str, Any] = {"stored": True, "late": receipt.late}
    if receipt.reveal is not None:
        told["feedback"] = {
            "right": receipt.right,
            "expected": answer_row(from_display(receipt.reveal, inverse(lease.display_order))),
            "explanation": task.meta.get("explanation", ""),
        }
    return told


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Where each candidate stands on the screen."""
    return tuple(order.index(i) for i in range(len(order)))


def show(kit: Kit, item: Item) -> dict[str, Any]:
    """`Item.public`, with pictures by their hash: never the purpose, never a path."""
    known = item.public()
    if isinstance(known["prompt"], list):
        known["prompt"] = [_without_paths(kit, m) for m in known["prompt"]]
    for answer in known["answers"]:
        if "turns" in answer:
            answer["turns"] = [_without_paths(kit, m) for m in answer["turns"]]
    return known


def pictures(items: Iterable[Item]) -> list[str]:
    """The sources of all pictures of items."""
    return images_of(m for x in items for turns in (x.task.prompt.messages, *(c.turns for c in x.task.candidates)) for m in turns)


def _without_paths(kit: Kit, message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [p if p["type"] == "text" else {"type": "image", "url": _url(kit, p["image"])} for p in content]
    return {**message, "content": parts}


def _url(kit: Kit, source: str) -> str:
    digest = kit.media.digest_of(source)
    return f"/media/{digest}" if digest else ""


def _answer(body: JudgementIn) -> Answer:
    answer = answer_from(dict(body.answer))
    if body.strength is None:
        return answer
    if not isinstance(answer, Choice):
        raise RowError("strength", "belongs to a choice")
    if answer.strength is not None and answer.strength != body.strength:
        raise RowError("strength", f"is {body.strength}, the answer's own is {answer.strength}")
    return Choice(answer.chosen, body.strength)


def _told(kit: Kit, given: Given) -> dict[str, Any]:
    """What the page is told of what was given out, and whether the campaign is paused when nothing was."""
    found, shown = given.campaign, [show(kit, item) for item in given.items]
    told: dict[str, Any] = {"campaign": found.name, "state": given.state, "paused": found.paused and not given.items, "items": shown}
    return told | {"protocol": kit.keep(found).protocol, "answered": given.answered}


def _ended(kit: Kit, annotator: str, campaign: str) -> dict[str, Any]:
    """Why nothing is left for the person: done or failed, with the code of completion."""
    state = kit.store.member_state(annotator, campaign)
    earned = kit.store.read(lambda c: has_earned(c, annotator, campaign))
    return {"state": state, "end": completion(kit.store, kit.store.campaign(campaign), annotator, state, earned)}


def _take_back(kit: Kit, caller: Caller, body: UndoIn) -> dict[str, Any]:
    annotator = caller.account.annotator

    def look(c: Connection) -> Any:
        j, le = schema.judgement, schema.lease
        last = select(j.c.event_id).where(j.c.annotator == annotator).order_by(j.c.seq.desc()).limit(UNDO)
        mine = (le.c.task == j.c.task, le.c.annotator == j.c.annotator, le.c.purpose == j.c.purpose, le.c.repeat == j.c.repeat)
        query = select(le, j.c.body).join(j, and_(*mine)).where(j.c.event_id == body.replaces, j.c.annotator == annotator)
        return c.execute(query.where(j.c.event_id.in_(last))).one_or_none()

    row = kit.store.read(look)
    if row is None:
        raise NoLeaseError("this answer cannot be taken back", f"the last {UNDO} answers can")
    lease, said = lease_of(row), judgement_from(json.loads(row.body))
    receipt = kit.store.take_back(annotator, lease.handle, body.event_id, body.replaces)
    item = kit.store.items([lease])[0]
    back = answer_row(from_display(said.answer, inverse(lease.display_order)))
    told = {"event_id": body.event_id, "replaces": body.event_id, "item": show(kit, item), "answer": back, "reason": said.reason}
    return {"stored": True, "late": receipt.late, **told}


def _reopen(kit: Kit, caller: Caller, body: UndoIn) -> dict[str, Any]:
    annotator = caller.account.annotator

    def look(c: Connection) -> Any:
        h, j, le = schema.head, schema.judgement, schema.lease
        last = select(j.c.event_id).where(j.c.annotator == annotator).order_by(j.c.seq.desc()).limit(UNDO)
        row = c.execute(
            select(j.c.body, h.c.task, h.c.purpose, h.c.repeat)
            .join(h, h.c.event_id == j.c.event_id)
            .where(j.c.event_id == body.replaces, j.c.annotator == annotator, j.c.event_id.in_(last))
        ).one_or_none()
        if row is None or row.purpose == "training":
            raise NoLeaseError("this answer cannot be taken back", f"the last {UNDO} answers can, but not those to training items")
        mine = (le.c.task == row.task, le.c.annotator == annotator, le.c.purpose == row.purpose, le.c.repeat == row.repeat)
        return row, c.execute(select(le).where(*mine)).one()

    row, leased = kit.store.read(look)
    lease, said = lease_of(leased), judgement_from(json.loads(row.body))
    item = kit.store.items([lease])[0]
    back = answer_row(from_display(said.answer, inverse(lease.display_order)))
    return {"event_id": body.event_id, "replaces": body.replaces, "item": show(kit, item), "answer": back, "reason": said.reason}
