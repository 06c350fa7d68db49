"""What annotators say becomes events: stored once, counted once, never changed. Functions of the writer's connection."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy import Connection, func, insert, select, update

from keel.core.errors import DataError
from keel.feedback import schema
from keel.feedback.answers import answer_from, disagreement, likeness
from keel.feedback.assign import Lease, give, is_retracted, lease_of, shift
from keel.feedback.campaigns import ConflictError, get_campaign
from keel.feedback.rows import digest, dumps, judgement_row
from keel.types import Answer, Judgement, Task

_SERVERS = ("at", "late")  # fields that the server fills in: two sendings of one event may differ in them


class NoLeaseError(DataError):
    """The person was never given this item: nothing was stored."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the annotator is told. The same event sent again gets the same receipt."""

    event_id: str
    late: bool
    reveal: Answer | None = None  # the expected answer, of training items alone
    right: bool | None = None  # of training items alone


def content(judgement: Judgement) -> str:
    """A hash of what the client said: two events with one id must have the same."""
    return digest({k: v for k, v in judgement_row(judgement).items() if k not in _SERVERS})


def submit(c: Connection, judgement: Judgement, task: Task, now: float, secret: bytes, *, leased: bool = True) -> Receipt:
    """Store one judgement that was checked against its task. ``leased``: only of an item that the annotator was given.

    Raises ConflictError when the event id stands for something else, the item is answered already and ``replaces`` does not name the
    standing answer, or a training item is to be corrected; NoLeaseError without a lease.
    """
    j, said = schema.judgement, content(judgement)
    known = c.execute(select(j.c.digest, j.c.late).where(j.c.event_id == judgement.event_id)).one_or_none()
    if known is not None:
        if known.digest != said:
            raise ConflictError(f"event {judgement.event_id} is stored with other content", "make a new event id for another answer")
        return _receipt(c, judgement, task, bool(known.late))
    lease = _lease(c, judgement, task, now, secret, leased)
    late = judgement.late or (leased and lease.state != "done" and (lease.state == "expired" or lease.until <= now))
    before = _standing(c, judgement)
    _check_place(judgement, before)
    kept = replace(judgement, late=late)
    seq = (c.execute(select(func.max(j.c.seq))).scalar() or 0) + 1
    row = {"event_id": kept.event_id, "seq": seq, "task": kept.task_id, "annotator": kept.by, "purpose": kept.purpose}
    row |= {"repeat": kept.repeat, "campaign": task.campaign, "digest": said, "body": dumps(judgement_row(kept))}
    c.execute(insert(j), row | {"replaces": kept.replaces, "late": int(late), "at": now})
    _put_head(c, kept, before, seq)
    if lease.state != "done":
        c.execute(update(schema.lease).where(schema.lease.c.handle == lease.handle).values(state="done"))
    if kept.purpose == "work":
        _count(c, kept, before, lease)
        settle(c, kept.task_id)
    elif kept.purpose == "adjudication":
        c.execute(update(schema.task).where(schema.task.c.task_id == kept.task_id).values(dispute=2))
    return _receipt(c, kept, task, late)


def recount(c: Connection, task_id: str) -> None:
    """Which work votes count: the first ``wanted`` that are not retracted. For what changes the past; single votes count themselves."""
    h, t = schema.head, schema.task
    task = c.execute(select(t).where(t.c.task_id == task_id)).one()
    rows = c.execute(select(h).where(h.c.task == task_id, h.c.purpose == "work").order_by(h.c.seq)).all()
    live = [r for r in rows if not r.retracted][: task.wanted]
    for row in rows:
        counted = int(row in live)
        if counted != row.counted:
            c.execute(update(h).where(h.c.task == task_id, h.c.annotator == row.annotator, h.c.purpose == "work").values(counted=counted))
    shift(c, task_id, done=len(live) - task.done)
    settle(c, task_id)


def settle(c: Connection, task_id: str) -> None:
    """Does the item wait for an adjudicator? It does when all its votes are in and disagree more than the campaign allows."""
    t, h, j = schema.task, schema.head, schema.judgement
    task = c.execute(select(t.c.campaign, t.c.done, t.c.wanted, t.c.dispute).where(t.c.task_id == task_id)).one()
    if task.dispute == 0 and task.done < task.wanted:
        return
    campaign = get_campaign(c, task.campaign)
    limit = campaign.settings.disagreement
    if limit is None:
        return
    judged = select(h.c.task).where(h.c.task == task_id, h.c.purpose == "adjudication", h.c.retracted == 0).limit(1)
    if c.execute(judged).first() is not None:
        wanted = 2
    elif task.done < task.wanted:
        wanted = 0
    else:
        said = select(j.c.body).join(h, h.c.event_id == j.c.event_id).where(h.c.task == task_id, h.c.counted == 1)
        answers = [answer_from(json.loads(body)["answer"]) for body in c.execute(said).scalars()]
        wanted = int(disagreement(answers, campaign.settings.scale) > limit)
    if wanted != task.dispute:
        c.execute(update(t).where(t.c.task_id == task_id).values(dispute=wanted))


def retract(c: Connection, annotator: str, event_id: str, why: str, who: str, now: float) -> tuple[str, ...]:
    """Take back all of an annotator's judgements, or one event. Returns the tasks that lost a vote. Raises DataError when there is none."""
    h, r, j = schema.head, schema.retraction, schema.judgement
    if bool(annotator) == bool(event_id):
        raise DataError("a retraction names an annotator or an event", "one of the two")
    if annotator and c.execute(select(schema.annotator).where(schema.annotator.c.annotator_id == annotator)).first() is None:
        raise DataError(f"annotator {annotator!r} is not in the store", "`keel feedback status` lists them")
    if event_id and c.execute(select(j.c.event_id).where(j.c.event_id == event_id)).first() is None:
        raise DataError(f"event {event_id!r} is not in the store")
    seq = (c.execute(select(func.max(r.c.seq))).scalar() or 0) + 1
    c.execute(insert(r), {"seq": seq, "annotator": annotator, "event_id": event_id, "why": why, "who": who, "at": now})
    hit = h.c.annotator == annotator if annotator else h.c.event_id == event_id
    tasks = sorted(set(c.execute(select(h.c.task).where(hit, h.c.retracted == 0)).scalars()))
    c.execute(update(h).where(hit).values(retracted=1, counted=0))
    if annotator:
        _end_leases(c, annotator)
    for task_id in tasks:
        recount(c, task_id)
    return tuple(tasks)


def _lease(c: Connection, judgement: Judgement, task: Task, now: float, secret: bytes, leased: bool) -> Lease:
    le = schema.lease
    mine = (le.c.task == judgement.task_id, le.c.annotator == judgement.by, le.c.purpose == judgement.purpose)
    row = c.execute(select(le).where(*mine, le.c.repeat == judgement.repeat)).one_or_none()
    if row is not None:
        lease = lease_of(row)
        if leased and judgement.display_order != lease.display_order:
            shown = list(lease.display_order)
            raise ConflictError(f"event {judgement.event_id}: display_order is {list(judgement.display_order)}, shown was {shown}")
        return lease
    if leased:
        raise NoLeaseError(f"{judgement.by} was not given task {judgement.task_id} ({judgement.purpose})", "ask for items first")
    campaign = get_campaign(c, task.campaign)
    given = (judgement.by, task.task_id, judgement.purpose, judgement.repeat)
    order, slot = judgement.display_order, -1  # never handed out: no slot
    return give(c, campaign, *given, slot, order, now, secret, state="done")


def _standing(c: Connection, judgement: Judgement) -> Any:
    h = schema.head
    mine = (h.c.task == judgement.task_id, h.c.annotator == judgement.by, h.c.purpose == judgement.purpose)
    return c.execute(select(h).where(*mine, h.c.repeat == judgement.repeat)).one_or_none()


def _check_place(judgement: Judgement, before: Any) -> None:
    if before is None and not judgement.replaces:
        return
    if before is None or judgement.replaces != before.event_id:
        stands = "nothing of theirs" if before is None else f"event {before.event_id}"
        what = f"event {judgement.event_id}: {judgement.by} has {stands} on task {judgement.task_id} ({judgement.purpose})"
        raise ConflictError(what, "a correction names the event that stands in replaces; a first answer names none")
    if judgement.purpose == "training":
        raise ConflictError(f"event {judgement.event_id}: the answer to a training item was shown", "it cannot be corrected")


def _put_head(c: Connection, judgement: Judgement, before: Any, seq: int) -> None:
    h = schema.head
    if before is None:
        row = {"task": judgement.task_id, "annotator": judgement.by, "purpose": judgement.purpose, "repeat": judgement.repeat}
        gone = int(is_retracted(c, judgement.by))
        c.execute(insert(h), row | {"event_id": judgement.event_id, "seq": seq, "counted": 0, "retracted": gone})
    else:
        c.execute(update(h).where(h.c.event_id == before.event_id).values(event_id=judgement.event_id))


def _count(c: Connection, judgement: Judgement, before: Any, lease: Lease) -> None:
    """A first vote of a person counts while there is room; its lease no longer does."""
    h, t = schema.head, schema.task
    counts = 0
    if before is None:
        room = c.execute(select(t.c.done < t.c.wanted).where(t.c.task_id == judgement.task_id)).scalar_one()
        gone = c.execute(select(h.c.retracted).where(h.c.event_id == judgement.event_id)).scalar_one()
        counts = int(bool(room) and not gone)
        if counts:
            c.execute(update(h).where(h.c.event_id == judgement.event_id).values(counted=1))
    shift(c, judgement.task_id, done=counts, leased=-1 if lease.state == "open" else 0)


def _end_leases(c: Connection, annotator: str) -> None:
    le = schema.lease
    for row in c.execute(select(le).where(le.c.annotator == annotator, le.c.state == "open")).all():
        c.execute(update(le).where(le.c.handle == row.handle).values(state="expired"))
        if row.purpose == "work":
            shift(c, row.task, leased=-1)


def _receipt(c: Connection, judgement: Judgement, task: Task, late: bool) -> Receipt:
    if judgement.purpose != "training":
        return Receipt(judgement.event_id, late)
    campaign, expected = get_campaign(c, task.campaign), cast("Answer", task.expected)
    right = likeness(judgement.answer, expected, campaign.settings.scale) >= campaign.settings.right_at
    return Receipt(judgement.event_id, late, expected, right)
