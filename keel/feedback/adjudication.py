"""Who decides where votes disagree: leases of disputed items. Functions of the writer's connection."""

from __future__ import annotations

import json

from sqlalchemy import Connection, bindparam, exists, func, select, update

from keel.feedback import schema
from keel.feedback.assign import HAD
from keel.feedback.campaigns import get_campaign
from keel.feedback.leases import Lease, give, lease_of, shown_order, sweep

_l, _t = schema.lease, schema.task
DISPUTED = (
    select(_t.c.task_id, _t.c.candidates)
    .where(_t.c.campaign == bindparam("campaign"), _t.c.dispute == 1, ~HAD)
    .where(~exists().where(_l.c.task == _t.c.task_id, _l.c.purpose == "adjudication", _l.c.state == "open"))
    .order_by(_t.c.position)
    .limit(bindparam("n"))
)


def grant_adjudication(c: Connection, annotator: str, campaign: str, n: int, now: float, secret: bytes) -> tuple[Lease, ...]:
    """Leases of disputed items, to one adjudicator each, who did not vote on them."""
    found = get_campaign(c, campaign)
    sweep(c, now)
    until = now + found.lease_seconds
    mine = select(_l).where(_l.c.annotator == annotator, _l.c.campaign == campaign, _l.c.purpose == "adjudication")
    held = [lease_of(r) for r in c.execute(mine.where(_l.c.state.in_(("open", "expired"))).order_by(_l.c.slot))]
    leases: list[Lease] = []
    for lease in held:
        waiting = c.execute(select(_t.c.dispute).where(_t.c.task_id == lease.task_id)).scalar_one() == 1
        other = _l.c.task == lease.task_id, _l.c.purpose == "adjudication", _l.c.state == "open", _l.c.annotator != annotator
        if len(leases) < n and waiting and c.execute(select(_l.c.task).where(*other)).first() is None:
            c.execute(update(_l).where(_l.c.handle == lease.handle).values(state="open", until=until))
            leases.append(lease)
    asked = {"annotator": annotator, "campaign": campaign, "purpose": "work", "n": n - len(leases)}
    new = c.execute(DISPUTED, asked).all() if len(leases) < n else []
    for row in new:
        before = select(func.max(_l.c.repeat)).where(_l.c.task == row.task_id, _l.c.annotator == annotator, _l.c.purpose == "adjudication")
        last = c.execute(before).scalar()
        order = shown_order(found, annotator, row.task_id, len(json.loads(row.candidates)))
        leases.append(give(c, found, annotator, row.task_id, "adjudication", 0 if last is None else last + 1, 0, order, until, secret))
    return tuple(leases)
