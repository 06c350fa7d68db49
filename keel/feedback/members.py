"""People in a campaign: training, qualification, passed or failed; how far they have gone. Functions of the writer's connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from keel.feedback import schema
from keel.feedback.campaigns import Campaign, campaign_of, unknown_campaign
from keel.feedback.sql import run
from keel.feedback.tasks import is_right

START = (-1e300, 0.0, -1)  # before every place in a campaign: urgency, ease, position
_l, _t = schema.lease, schema.task
_m = schema.member
_k, _r = schema.campaign, schema.retraction
_GONE = select(func.min(_r.c.seq)).where(_r.c.annotator == bindparam("annotator"))
ENTRY = (  # a campaign, the person in it, and whether all of theirs was taken back
    select(_k, *_m.c, _GONE.scalar_subquery().label("gone"))
    .outerjoin_from(_k, _m, and_(_m.c.campaign == _k.c.name, _m.c.annotator == bindparam("annotator")))
    .where(_k.c.name == bindparam("campaign"))
)
GO_ON = (
    update(_m)
    .where(_m.c.campaign == bindparam("of_campaign"), _m.c.annotator == bindparam("of_annotator"))
    .values({name: bindparam(name) for name in ("given", "seen", "cursor_urgency", "cursor_ease", "cursor_position")})
)
ANSWERED = (
    select(func.count())
    .select_from(_l)
    .where(_l.c.annotator == bindparam("annotator"), _l.c.campaign == bindparam("campaign"), _l.c.state == "done")
)
RETRACTED = select(schema.retraction.c.seq).where(schema.retraction.c.annotator == bindparam("annotator")).limit(1)


def member_state(c: Connection, annotator: str, campaign: str) -> str:
    """``training``, ``qualification``, ``passed`` or ``failed``, and what follows now that some items are answered."""
    entry = entry_of(c, annotator, campaign)
    return advance(c, campaign_of(entry), annotator, entry).state


def is_retracted(c: Connection, annotator: str) -> bool:
    """Were all judgements of this annotator taken back?"""
    return run(c, RETRACTED, annotator=annotator).first() is not None


def entry_of(c: Connection, annotator: str, campaign: str) -> Any:
    """The row of a campaign with that of the person in it, which may be missing. Raises DataError when there is no such campaign."""
    row = run(c, ENTRY, annotator=annotator, campaign=campaign).one_or_none()
    if row is None:
        raise unknown_campaign(campaign)
    return row


def advance(c: Connection, campaign: Campaign, annotator: str, row: Any) -> Any:
    """The person's `entry_of` in the campaign, made when missing, its state brought up to what has been answered."""
    key = {"campaign": campaign.name, "annotator": annotator}
    if row.state is None:
        place = dict(zip(("cursor_urgency", "cursor_ease", "cursor_position"), START, strict=True))
        c.execute(insert(_m), {**key, "state": "training", "given": 0, "seen": -1, **place})
        row = run(c, ENTRY, **key).one()
    while row.state in ("training", "qualification"):
        role = row.state
        wanted = c.execute(select(func.count()).where(_t.c.campaign == campaign.name, _t.c.role == role, _t.c.open == 1)).scalar_one()
        ids = select(_t.c.task_id).where(_t.c.campaign == campaign.name, _t.c.role == role, _t.c.open == 1)
        purpose = "training" if role == "training" else "gold"
        done = and_(_l.c.annotator == annotator, _l.c.campaign == campaign.name, _l.c.state == "done", _l.c.purpose == purpose)
        answered = c.execute(select(_l.c.task).where(done, _l.c.task.in_(ids))).scalars().all()
        if len(answered) < wanted:
            return row
        state = "qualification" if role == "training" else "passed"
        if role == "qualification" and wanted and _share_right(c, campaign, annotator, answered) < campaign.settings.pass_mark:
            state = "failed"
        remember(c, row, state=state)
        row = run(c, ENTRY, **key).one()
    return row


def _share_right(c: Connection, campaign: Campaign, annotator: str, task_ids: Sequence[str]) -> float:
    h, j = schema.head, schema.judgement
    standing = select(j.c.body, h.c.task).join(h, h.c.event_id == j.c.event_id)
    rows = c.execute(standing.where(h.c.task.in_(task_ids), h.c.annotator == annotator, h.c.purpose == "gold", h.c.repeat == 0)).all()
    return sum(is_right(c, campaign, row.task, row.body) for row in rows) / len(task_ids)


def remember(c: Connection, member: Any, **changes: Any) -> None:
    """Change what is written of a person in a campaign."""
    m = schema.member
    c.execute(update(m).where(m.c.campaign == member.campaign, m.c.annotator == member.annotator).values(**changes))
