"""What annotators say becomes events: stored once, counted once, never changed. Functions of the writer's connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from keel.feedback import schema
from keel.feedback.answers import likeness
from keel.feedback.campaigns import ConflictError, get_campaign
from keel.feedback.judged import advises
from keel.feedback.leases import Lease, NoLeaseError, give, shift, shifting
from keel.feedback.rows import digest, dumps, judgement_from, judgement_row
from keel.feedback.sql import Step, run, run_all
from keel.feedback.tally import recount, settle
from keel.types import Answer, Judgement, TakenBack, Task

_BY_THEMSELVES = 2  # ``head.retracted`` of an answer that its annotator took back
_SERVERS = ("at", "late")  # fields that the server fills in: two sendings of one event may differ in them
_PLACES = (*_SERVERS, "source_id")  # and where it came from: the same file may lie elsewhere


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


def _same(one: Judgement, other: Judgement) -> bool:
    """Do two judgements say the same, wherever they came from? What a judge's call cost is not part of it: the same reply out of the
    journal is free."""
    a, b = ({k: v for k, v in judgement_row(j).items() if k not in _PLACES} for j in (one, other))
    if all("identity" in row["meta"] for row in (a, b)):
        a, b = (row | {"meta": {k: v for k, v in row["meta"].items() if k != "cost"}} for row in (a, b))
    return digest(a) == digest(b)


_j, _h, _le, _t, _r = schema.judgement, schema.head, schema.lease, schema.task, schema.retraction
_KEY = ("task", "annotator", "purpose", "repeat")
_BY_KEY = {table: and_(*(table.c[name] == bindparam(name) for name in _KEY)) for table in (_h, _le)}
HERE = (  # all that is known of a place and an event, in one statement: each costs as much as what it finds
    select(
        *(_t.c[name] for name in ("campaign", "done", "wanted", "dispute")),
        *(_le.c[name] for name in ("handle", "slot", "display_order", "state", "until")),
        *(_h.c[name].label(f"standing_{name}") for name in ("event_id", "retracted")),
        *(_j.c[name].label(f"known_{name}") for name in ("digest", "late")),
        select(func.max(_j.c.seq)).correlate(None).scalar_subquery().label("last"),
        select(func.min(_r.c.seq)).where(_r.c.annotator == bindparam("annotator")).scalar_subquery().label("gone"),
    )
    .outerjoin_from(_t, _le, _BY_KEY[_le])
    .outerjoin(_h, _BY_KEY[_h])
    .outerjoin(_j, _j.c.event_id == bindparam("event_id"))
    .where(_t.c.task_id == bindparam("task"))
)
_BODY = select(_j.c.body).where(_j.c.event_id == bindparam("event_id"))
_ADD, _ADD_HEAD = insert(_j), insert(_h)
_DONE = update(_le).where(_le.c.handle == bindparam("of")).values(state="done")


def submit(c: Connection, judgement: Judgement, task: Task, now: float, secret: bytes, *, leased: bool = True) -> Receipt:
    """Store one judgement that was checked against its task. ``leased``: only of an item that the annotator was given.

    Raises ConflictError when the event id stands for something else, the item is answered already and ``replaces`` does not name the
    standing answer, or a training item is to be corrected; NoLeaseError without a lease.
    """
    said = content(judgement)
    key = {"task": judgement.task_id, "annotator": judgement.by, "purpose": judgement.purpose, "repeat": judgement.repeat}
    here = run(c, HERE, event_id=judgement.event_id, **key).one()
    if here.known_digest is not None:
        if here.known_digest != said and not _same(_stored(c, judgement.event_id), judgement):
            raise ConflictError(f"event {judgement.event_id} is stored with other content", "make a new event id for another answer")
        return _receipt(c, judgement, task, bool(here.known_late))
    lease = _lease(c, judgement, task, here, now, secret, leased)
    late = judgement.late or (leased and lease.state != "done" and (lease.state == "expired" or lease.until <= now))
    taken_back = here.standing_retracted == _BY_THEMSELVES
    if leased and taken_back and not judgement.replaces:
        judgement = replace(judgement, replaces=here.standing_event_id)  # the page that shows the item again need not know the event
    _check_place(judgement, here)
    kept, seq = replace(judgement, late=late) if late else judgement, (here.last or 0) + 1
    more = {"campaign": task.campaign, "digest": said, "body": dumps(judgement_row(kept)), "replaces": kept.replaces}
    steps: list[Step] = [(_ADD, {"event_id": kept.event_id, "seq": seq, **key, **more, "late": int(late), "at": now})]
    if isinstance(kept.answer, TakenBack):
        run_all(c, steps)
        _take_back(c, kept, task, lease, now, leased)
        return _receipt(c, kept, task, late)
    if lease.state != "done":
        steps.append((_DONE, {"of": lease.handle}))
    votes = here.done
    if here.standing_event_id is None or taken_back:
        votes += _stands(c, steps, kept, key, seq, lease, here, leased or not advises(c, kept.by, here.campaign))
    else:
        run_all(c, steps)
        c.execute(update(_h).where(_h.c.event_id == here.standing_event_id).values(event_id=kept.event_id))
        if kept.purpose == "work" and lease.state == "open":
            shift(c, kept.task_id, leased=-1)
    if kept.purpose == "work" and (here.dispute or votes >= here.wanted):
        settle(c, kept.task_id)
    elif kept.purpose == "adjudication":
        c.execute(update(_t).where(_t.c.task_id == kept.task_id).values(dispute=2))
    return _receipt(c, kept, task, late)


def _stored(c: Connection, event_id: str) -> Judgement:
    return judgement_from(json.loads(run(c, _BODY, event_id=event_id).scalar_one()))


def _stands(
    c: Connection, steps: list[Step], judgement: Judgement, key: Mapping[str, Any], seq: int, lease: Lease, here: Any, may: bool
) -> int:
    """After ``steps``: a person's first answer stands, or the first after they took one back. A vote counts while there is room, and then
    its lease no longer does; a person's second answer to an item never counts, whatever it says that it is for. ``may``: it is
    no judge's that only says who is asked first. Returns 1 when it counts, else 0."""
    counts = int(judgement.purpose == "work" and judgement.repeat == 0 and here.done < here.wanted and here.gone is None and may)
    said = {"event_id": judgement.event_id, "seq": seq, "counted": counts, "retracted": int(here.gone is not None)}
    freed = int(lease.state == "open") if judgement.purpose == "work" else 0
    if here.standing_event_id is None:
        steps = [*steps, (_ADD_HEAD, {**key, **said})]
    if counts >= freed and judgement.purpose == "work":
        steps = [*steps, shifting(judgement.task_id, counts, -freed)]
    run_all(c, steps)
    if here.standing_event_id is not None:
        c.execute(update(_h).where(*(_h.c[name] == value for name, value in key.items())).values(**said))
    if counts < freed:
        shift(c, judgement.task_id, leased=-freed)
    return counts


def _take_back(c: Connection, judgement: Judgement, task: Task, lease: Lease, now: float, leased: bool) -> None:
    """Nothing stands in the place of an answer: a vote beyond the wanted number may count now, and the item is its annotator's again (for
    as long as a lease lasts where they are at work on it)."""
    until = now + get_campaign(c, task.campaign).lease_seconds
    c.execute(
        update(_h).where(_h.c.event_id == judgement.replaces).values(event_id=judgement.event_id, counted=0, retracted=_BY_THEMSELVES)
    )
    state = {"state": "open", "until": until} if leased else {"state": "expired"}
    c.execute(update(_le).where(_le.c.handle == lease.handle).values(**state))
    if judgement.purpose == "work":
        shift(c, judgement.task_id, leased=int(leased) - int(lease.state == "open"))
        recount(c, judgement.task_id)
    elif judgement.purpose == "adjudication":
        c.execute(update(_t).where(_t.c.task_id == judgement.task_id).values(dispute=0))
        settle(c, judgement.task_id)


def _lease(c: Connection, judgement: Judgement, task: Task, here: Any, now: float, secret: bytes, leased: bool) -> Lease:
    given = (judgement.by, task.task_id, judgement.purpose, judgement.repeat)
    if here.handle is not None:
        shown = json.loads(here.display_order)
        if leased and list(judgement.display_order) != shown:
            raise ConflictError(f"event {judgement.event_id}: display_order is {list(judgement.display_order)}, shown was {shown}")
        by, task_id, purpose, repeat = given
        return Lease(here.handle, task_id, by, here.campaign, purpose, repeat, here.slot, tuple(shown), here.state, here.until)
    if leased:
        raise NoLeaseError(f"{judgement.by} was not given task {judgement.task_id} ({judgement.purpose})", "ask for items first")
    order, slot = judgement.display_order, -1  # never handed out: no slot
    return give(c, get_campaign(c, task.campaign), *given, slot, order, now, secret, state="done")


def _check_place(judgement: Judgement, here: Any) -> None:
    stands = here.standing_event_id
    if stands is None and not judgement.replaces:
        return
    if stands is None or judgement.replaces != stands:
        has = "nothing of theirs" if stands is None else f"event {stands}"
        what = f"event {judgement.event_id}: {judgement.by} has {has} on task {judgement.task_id} ({judgement.purpose})"
        raise ConflictError(what, "a correction names the event that stands in replaces; a first answer names none")
    if judgement.purpose == "training":
        raise ConflictError(f"event {judgement.event_id}: the answer to a training item was shown", "it cannot be corrected")
    if isinstance(judgement.answer, TakenBack) and here.standing_retracted:
        raise ConflictError(f"event {judgement.event_id}: {stands} was taken back already", "answer the item, or leave it")


def _receipt(c: Connection, judgement: Judgement, task: Task, late: bool) -> Receipt:
    if judgement.purpose != "training":
        return Receipt(judgement.event_id, late)
    campaign, expected = get_campaign(c, task.campaign), cast("Answer", task.expected)
    right = likeness(judgement.answer, expected, campaign.settings.scale) >= campaign.settings.right_at
    return Receipt(judgement.event_id, late, expected, right)
