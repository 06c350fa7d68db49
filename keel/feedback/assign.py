"""Who gets which item. Functions of the writer's connection; nothing else may call them.

Every item of work goes to ``wanted`` different people, to none of them twice. A lease is a promise with an end: after it another person may
get the item, and the first one gets it back while there is room. What is random (order on the screen, where gold and repeats stand) is a
hash of the campaign's seed, the person and the place, so that it comes out the same after a crash.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, exists, select, tuple_, update

from keel.core.hashing import stable_hash
from keel.feedback import schema
from keel.feedback.campaigns import Campaign, campaign_of
from keel.feedback.leases import INSERT, Lease, give, lease_of, make_lease, row_of, shift, shifting, shown_order, sweep
from keel.feedback.members import ANSWERED, GO_ON, START, advance, entry_of, remember
from keel.feedback.sql import Step, run, run_all

_POOL = 200  # of gold or of past items, from which one is drawn


_l, _t = schema.lease, schema.task
_MINE = (
    select(_l)
    .where(_l.c.annotator == bindparam("annotator"), _l.c.campaign == bindparam("campaign"), _l.c.state == bindparam("state"))
    .where(_l.c.purpose != "adjudication")
    .order_by(_l.c.slot)
    .limit(bindparam("n"))
)
_RECLAIM = (  # what the person had before, and may have again
    select(_l)
    .join(_t, _t.c.task_id == _l.c.task)
    .where(_l.c.annotator == bindparam("annotator"), _l.c.campaign == bindparam("campaign"), _l.c.state == "expired")
    .where(_l.c.purpose != "adjudication", (_l.c.purpose != "work") | (_t.c.open == 1))
    .order_by(_l.c.slot)
    .limit(bindparam("n"))
)
_RENEW = update(_l).where(_l.c.handle == bindparam("of")).values(state="open", until=bindparam("until_then"))
HAD = exists().where(_l.c.task == _t.c.task_id, _l.c.annotator == bindparam("annotator"), _l.c.purpose == bindparam("purpose"))
NEXT = (  # the next items of work after a place, which the person never had
    select(_t.c.task_id, _t.c.urgency, _t.c.ease, _t.c.position, _t.c.candidates)
    .where(_t.c.campaign == bindparam("campaign"), _t.c.role == "work", _t.c.open == 1)
    .where(tuple_(_t.c.urgency, _t.c.ease, _t.c.position) > tuple_(bindparam("urgency"), bindparam("ease"), bindparam("position")), ~HAD)
    .order_by(_t.c.urgency, _t.c.ease, _t.c.position)
    .limit(bindparam("n"))
)
POOL = (  # open or not: known items go to everybody
    select(_t.c.task_id, _t.c.candidates)
    .where(_t.c.campaign == bindparam("campaign"), _t.c.role == bindparam("role"), _t.c.open == 1, ~HAD)
    .order_by(_t.c.urgency, _t.c.ease, _t.c.position)
    .limit(bindparam("n"))
)
_again = schema.lease.alias("again")
_ASKED_AGAIN = exists().where(_again.c.task == _l.c.task, _again.c.annotator == _l.c.annotator, _again.c.purpose == "repeat")
PAST = (  # work of the person that was answered long enough ago and not asked again
    select(_l.c.task, _l.c.display_order)
    .where(_l.c.annotator == bindparam("annotator"), _l.c.campaign == bindparam("campaign"), _l.c.state == "done")
    .where(_l.c.purpose == "work", _l.c.slot <= bindparam("upto"), _l.c.slot > bindparam("after"), ~_ASKED_AGAIN)
    .order_by(_l.c.slot)
    .limit(bindparam("n"))
)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a person was given, and where they stand. ``state``: training, qualification, passed or failed."""

    leases: tuple[Lease, ...]
    campaign: Campaign
    state: str
    answered: int


def grant(c: Connection, annotator: str, campaign: str, n: int, now: float, secret: bytes) -> Granted:
    """At most ``n`` open leases of the person: those that were open first, then those that had ended and still may come back, then new
    ones. A paused campaign gives none, nor does anybody get one whose judgements were retracted, or who failed the qualification."""
    sweep(c, now)
    entry = entry_of(c, annotator, campaign)
    found, state, leases = campaign_of(entry), entry.state or "training", list[Lease]()
    if not (found.paused or n < 1 or entry.gone is not None):
        until = now + found.lease_seconds
        leases = _renewed(c, annotator, campaign, n, until)
        if len(leases) < n:
            member = advance(c, found, annotator, entry)
            leases += _new(c, found, member, n - len(leases), until, secret)
            state = member.state
    return Granted(tuple(leases), found, state, run(c, ANSWERED, annotator=annotator, campaign=campaign).scalar_one())


def _renewed(c: Connection, annotator: str, campaign: str, n: int, until: float) -> list[Lease]:
    """What the person has open, or had before and may have again. Asking shows that they are there: these leases begin anew."""
    who = {"annotator": annotator, "campaign": campaign}
    leases = [lease_of(r) for r in run(c, _MINE, **who, state="open", n=n)]
    back = [lease_of(r) for r in run(c, _RECLAIM, **who, n=n - len(leases))] if len(leases) < n else []
    run_all(c, [(_RENEW, {"of": lease.handle, "until_then": until}) for lease in (*leases, *back)])
    for lease in back:
        if lease.purpose == "work":
            shift(c, lease.task_id, leased=1)
    return [replace(lease, state="open", until=until) for lease in sorted((*leases, *back), key=lambda lease: lease.slot)]


def _new(c: Connection, campaign: Campaign, member: Any, n: int, until: float, secret: bytes) -> list[Lease]:
    annotator = member.annotator
    if member.state in ("training", "qualification"):
        purpose = "training" if member.state == "training" else "gold"
        asked = {"campaign": campaign.name, "role": member.state, "annotator": annotator, "purpose": purpose, "n": n}
        rows, slot, leases = run(c, POOL, **asked).all(), member.given, []
        for row in rows:
            order = shown_order(campaign, annotator, row.task_id, len(json.loads(row.candidates)))
            leases.append(give(c, campaign, annotator, row.task_id, purpose, 0, slot, order, until, secret))
            slot += 1
        remember(c, member, given=slot)
        return leases
    return _mixed(c, campaign, member, n, until, secret) if member.state == "passed" else []


def _mixed(c: Connection, campaign: Campaign, member: Any, n: int, until: float, secret: bytes) -> list[Lease]:
    """Work with gold and repeats in it. There is none of these without work: who has done all gets nothing more."""
    who, slot, leases, plain = member.annotator, member.given, list[Lease](), list[Lease]()
    at = (member.cursor_urgency, member.cursor_ease, member.cursor_position) if member.seen == member.changed else START
    place = dict(zip(("urgency", "ease", "position"), at, strict=True))
    asked = {"campaign": campaign.name, "annotator": who, "purpose": "work", **place, "n": n}
    work = list(run(c, NEXT, **asked))
    while work and len(leases) < n:
        drawn = stable_hash("slot", campaign.seed, who, slot) / 2.0**64
        known = drawn < campaign.gold_share and _draw_gold(c, campaign, who, slot)
        again = not known and campaign.gold_share <= drawn < campaign.gold_share + campaign.repeat_share
        past = _draw_past(c, campaign, who, slot) if again else None
        if known:
            lease = give(c, campaign, who, known[0], "gold", 0, slot, shown_order(campaign, who, *known), until, secret)
        elif past:
            lease = give(c, campaign, who, past[0], "repeat", 1, slot, past[1][::-1], until, secret)  # shown the other way round
        else:
            row = work.pop(0)
            place = {name: getattr(row, name) for name in place}
            order = shown_order(campaign, who, row.task_id, len(json.loads(row.candidates)))
            lease = make_lease(campaign, who, row.task_id, "work", 0, slot, order, until, secret)
            plain.append(lease)
        leases.append(lease)
        slot += 1
    go_on = {"given": slot, "seen": member.changed, **{f"cursor_{name}": value for name, value in place.items()}}
    steps: list[Step] = [(GO_ON, {"of_campaign": campaign.name, "of_annotator": who, **go_on})]
    steps += [(INSERT, row_of(lease)) for lease in plain] + [shifting(lease.task_id, 0, 1) for lease in plain]
    run_all(c, steps)
    return leases


def _draw_gold(c: Connection, campaign: Campaign, annotator: str, slot: int) -> tuple[str, int] | None:
    asked = {"campaign": campaign.name, "role": "gold", "annotator": annotator, "purpose": "gold", "n": _POOL}
    row = _drawn(run(c, POOL, **asked).all(), "gold", campaign, annotator, slot)
    return None if row is None else (row.task_id, len(json.loads(row.candidates)))


def _draw_past(c: Connection, campaign: Campaign, annotator: str, slot: int) -> tuple[str, tuple[int, ...]] | None:
    gap = campaign.settings.repeat_gap
    span = {"upto": slot - gap, "after": slot - gap - _POOL}
    row = _drawn(run(c, PAST, annotator=annotator, campaign=campaign.name, **span, n=_POOL).all(), "repeat", campaign, annotator, slot)
    return None if row is None else (row.task, tuple(json.loads(row.display_order)))


def _drawn(rows: Sequence[Any], what: str, campaign: Campaign, annotator: str, slot: int) -> Any:
    """One of the rows, each as likely as the others, the same at every call; None when there is none."""
    return rows[stable_hash(what, campaign.seed, annotator, slot) % len(rows)] if rows else None
