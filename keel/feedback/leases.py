"""Leases: promises that one person may judge one item, and the counts that follow from them. Functions of the writer's connection."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, case, insert, select, update

from keel.core.errors import DataError
from keel.core.hashing import permutation
from keel.feedback import schema
from keel.feedback.campaigns import Campaign
from keel.feedback.sql import Step, run, run_all
from keel.types import Purpose


class NoLeaseError(DataError):
    """The person was never given this item: nothing was stored."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one person to judge one item until ``until``."""

    handle: str
    task_id: str
    annotator: str
    campaign: str
    purpose: Purpose
    repeat: int
    slot: int
    display_order: tuple[int, ...]
    state: str  # open, expired, done
    until: float


def lease_of(row: Any) -> Lease:
    order = tuple(json.loads(row.display_order))
    return Lease(row.handle, row.task, row.annotator, row.campaign, row.purpose, row.repeat, row.slot, order, row.state, row.until)


_l, _t = schema.lease, schema.task
INSERT = insert(_l)
HANDLE = select(_l).where(_l.c.handle == bindparam("handle"), _l.c.annotator == bindparam("annotator"))
EXPIRED = select(_l).where(_l.c.state == "open", _l.c.until <= bindparam("now"))


def by_handle(c: Connection, annotator: str, handle: str) -> Lease:
    """The lease that a page calls so. Raises NoLeaseError when it is not this person's."""
    row = run(c, HANDLE, handle=handle, annotator=annotator).one_or_none()
    if row is None:
        raise NoLeaseError(f"{annotator} was not given this item", "ask for items first")
    return lease_of(row)


def sweep(c: Connection, now: float) -> int:
    """End the leases whose time is over; returns how many. Their items may go to others."""
    ended = [lease_of(r) for r in run(c, EXPIRED, now=now)]
    for lease in ended:
        c.execute(update(_l).where(_l.c.handle == lease.handle).values(state="expired"))
        if lease.purpose == "work":
            shift(c, lease.task_id, leased=-1)
    return len(ended)


_ROOM = _t.c.done + bindparam("more_done") + _t.c.leased + bindparam("more_leased") < _t.c.wanted
_SHIFT = (
    update(_t)
    .where(_t.c.task_id == bindparam("id"))
    .values(
        done=_t.c.done + bindparam("more_done"),
        leased=_t.c.leased + bindparam("more_leased"),
        open=case((_ROOM & (_t.c.by_judge == 0), 1), else_=0),
    )
)
_NOW = select(_t.c.open, _t.c.campaign).where(_t.c.task_id == bindparam("id"))


def shift(c: Connection, task_id: str, done: int = 0, leased: int = 0) -> None:
    """Change the counts of an item and whether it is open; people look again from the beginning when it opens."""
    was = run(c, _NOW, id=task_id).one() if done + leased < 0 else None
    run_all(c, [shifting(task_id, done, leased)])
    if was is not None and not was.open and run(c, _NOW, id=task_id).one().open:
        c.execute(update(schema.campaign).where(schema.campaign.c.name == was.campaign).values(changed=schema.campaign.c.changed + 1))


def shifting(task_id: str, done: int, leased: int) -> Step:
    """`shift` as a step of `run_all`, where the item cannot open by it: ``done + leased`` is not below 0."""
    return _SHIFT, {"id": task_id, "more_done": done, "more_leased": leased}


def shown_order(campaign: Campaign, annotator: str, task_id: str, count: int) -> tuple[int, ...]:
    """Which candidate stands at each place of the screen, the first time that this person sees the item."""
    return tuple(permutation(count, "display", campaign.seed, annotator, task_id))


def make_lease(
    campaign: Campaign,
    annotator: str,
    task_id: str,
    purpose: Any,
    repeat: int,
    slot: int,
    order: Sequence[int],
    until: float,
    secret: bytes,
    state: str = "open",
) -> Lease:
    """A lease under the name that its page will use: only who has the database's key can tell which item it is."""
    key = "\0".join((task_id, annotator, purpose, str(repeat))).encode("utf-8", "surrogatepass")
    handle = hashlib.blake2b(key, key=secret, digest_size=16).hexdigest()
    return Lease(handle, task_id, annotator, campaign.name, purpose, repeat, slot, tuple(order), state, until)


def give(c: Connection, *given: Any, state: str = "open") -> Lease:
    """`make_lease`, stored."""
    lease = make_lease(*given, state=state)
    run(c, INSERT, **row_of(lease))
    return lease


def row_of(lease: Lease) -> dict[str, Any]:
    """A lease as its table holds it."""
    row = {name: getattr(lease, name) for name in ("annotator", "campaign", "handle", "purpose", "repeat", "slot", "state", "until")}
    return row | {"task": lease.task_id, "display_order": json.dumps(list(lease.display_order))}


def secret_of(c: Connection) -> bytes:
    """The key of the leases' handles, drawn once a database."""
    s = schema.setting
    found = c.execute(select(s.c.value).where(s.c.name == "secret")).scalar()
    if found is None:
        found = secrets.token_hex(32)
        c.execute(insert(s), {"name": "secret", "value": found})
    return bytes.fromhex(found)
