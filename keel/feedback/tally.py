"""Which votes count, after something changed the past: retractions, more people an item, disputes. Functions of the writer's connection."""

from __future__ import annotations

import json

from sqlalchemy import Connection, bindparam, func, insert, select, update

from keel.core.errors import DataError
from keel.feedback import schema
from keel.feedback.answers import answer_from, disagreement
from keel.feedback.campaigns import get_campaign
from keel.feedback.leases import shift
from keel.feedback.sql import run

_t = schema.task
MACHINES = ("judge", "reward_model")  # kinds of annotators that are no people
ROOM = select(_t.c.campaign, _t.c.done, _t.c.wanted, _t.c.dispute).where(_t.c.task_id == bindparam("task"))


def recount(c: Connection, task_id: str) -> None:
    """Which work votes count: the first ``wanted`` that stand, one a person; where judges only say who is asked first, theirs do not,
    unless their label of the item is enough. For what changes the past; single votes count themselves."""
    h, t, a = schema.head, schema.task, schema.annotator
    task = c.execute(select(t).where(t.c.task_id == task_id)).one()
    votes = select(h, a.c.kind).join(a, a.c.annotator_id == h.c.annotator)
    rows = c.execute(votes.where(h.c.task == task_id, h.c.purpose == "work", h.c.repeat == 0).order_by(h.c.seq)).all()
    advice = get_campaign(c, task.campaign).settings.judges_advise and not task.by_judge
    live = [r for r in rows if not r.retracted and not (advice and r.kind in MACHINES)][: task.wanted]
    for row in rows:
        counted = int(row in live)
        if counted != row.counted:
            c.execute(update(h).where(h.c.event_id == row.event_id).values(counted=counted))
    shift(c, task_id, done=len(live) - task.done)
    settle(c, task_id)


def widen(c: Connection, campaign: str, wanted: int) -> None:
    """Raise the number of people an item, of the campaign and of its items; what was beyond it may count now."""
    t, k = schema.task, schema.campaign
    if get_campaign(c, campaign).wanted >= wanted:
        return
    c.execute(update(k).where(k.c.name == campaign).values(wanted=wanted, changed=k.c.changed + 1))
    ids = c.execute(select(t.c.task_id).where(t.c.campaign == campaign, t.c.wanted < wanted)).scalars().all()
    c.execute(update(t).where(t.c.campaign == campaign, t.c.wanted < wanted).values(wanted=wanted))
    for task_id in ids:
        recount(c, task_id)


def settle(c: Connection, task_id: str) -> None:
    """Does the item wait for an adjudicator? It does when all its votes are in and disagree more than the campaign allows."""
    t, h, j = schema.task, schema.head, schema.judgement
    task = run(c, ROOM, task=task_id).one()
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


def _end_leases(c: Connection, annotator: str) -> None:
    le = schema.lease
    for row in c.execute(select(le).where(le.c.annotator == annotator, le.c.state == "open")).all():
        c.execute(update(le).where(le.c.handle == row.handle).values(state="expired"))
        if row.purpose == "work":
            shift(c, row.task, leased=-1)
