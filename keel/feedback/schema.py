"""The tables of the store, as SQLAlchemy Core knows them. How a database gets them: `migrate`. Times are seconds since 1970.

Texts stand once, by hash. What people said (``judgement``), what was taken back (``retraction``) and who did what (``audit``) is only ever
added to; ``head``, ``task.open``, ``task.done`` and ``task.leased`` follow from them and from leases, and are kept so that no query counts.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, MetaData, Table, Text

METADATA = MetaData()


def _text(name: str, *args: Any, **more: Any) -> Column[str]:
    return Column(name, Text, *args, nullable=False, **more)


def _int(name: str, **more: Any) -> Column[int]:
    return Column(name, BigInteger, nullable=False, autoincrement=False, **more)


def _real(name: str) -> Column[float]:
    return Column(name, Double, nullable=False)


def _to(table: str, column: str) -> ForeignKey:
    return ForeignKey(f"{table}.{column}")


setting = Table("setting", METADATA, _text("name", primary_key=True), _text("value"))

annotator = Table(
    "annotator", METADATA, _text("annotator_id", primary_key=True), _text("kind"), _text("identity"), _text("meta"), _real("at")
)
guideline = Table("guideline", METADATA, _text("version", primary_key=True), _text("text"), _text("weights"), _real("at"))
campaign = Table(
    "campaign",
    METADATA,
    _text("name", primary_key=True),
    _int("wanted"),  # different people an item
    _text("kind"),
    _text("protocol"),
    _text("guideline"),
    _real("gold_share"),
    _real("repeat_share"),
    _real("lease_seconds"),
    _int("paused"),
    _int("seed"),
    _text("settings"),
    _int("changed"),  # counts what may give people items that they have gone past: new ones, reopened ones, other priorities
    _real("at"),
)

prompt = Table("prompt", METADATA, _text("hash", primary_key=True), _text("body"))
candidate = Table("candidate", METADATA, _text("hash", primary_key=True), _text("body"))
task = Table(
    "task",
    METADATA,
    _text("task_id", primary_key=True),
    _text("campaign", _to("campaign", "name")),
    _text("role"),  # work, gold, training, qualification
    _text("kind"),
    _text("protocol"),
    _text("guideline"),
    _text("prompt", _to("prompt", "hash")),
    _text("candidates"),  # hashes, a JSON list
    _text("expected"),  # JSON; empty when nothing is known
    _text("source_id"),
    _text("meta"),
    _int("wanted"),
    _real("urgency"),  # - priority: the index goes up
    _int("position"),
    _int("open"),  # 1 while done + leased < wanted, unless a judge labels it
    _int("done"),  # work votes that count: at most wanted
    _int("leased"),  # open leases of work
    _int("dispute"),  # 0 none, 1 waits for an adjudicator, 2 settled
    _real("ease"),  # of items of one urgency: what judges doubt goes first (`keel.feedback.doubt`); 0 where nobody asked
    _int("by_judge"),  # 1: a judge is sure of it, and its label is enough: closed to people
    Index("task_next", "campaign", "role", "open", "urgency", "ease", "position"),
    Index("task_dispute", "campaign", "dispute", "position"),
)
member = Table(
    "member",
    METADATA,
    _text("campaign", _to("campaign", "name"), primary_key=True),
    _text("annotator", _to("annotator", "annotator_id"), primary_key=True),
    _text("state"),  # training, qualification, passed, failed
    _int("given"),  # slots handed out so far
    _int("seen"),  # campaign.changed at the last look from the beginning
    _real("cursor_urgency"),  # how far the person has gone through the items
    _int("cursor_position"),
    _real("cursor_ease"),
)
lease = Table(
    "lease",
    METADATA,
    _text("task", _to("task", "task_id"), primary_key=True),
    _text("annotator", _to("annotator", "annotator_id"), primary_key=True),
    _text("purpose", primary_key=True),
    _int("repeat", primary_key=True),
    _text("campaign", _to("campaign", "name")),
    _text("handle"),  # what the annotator's page calls it: says nothing about task or purpose
    _int("slot"),
    _text("display_order"),
    _text("state"),  # open, expired, done
    _real("until"),
    Index("lease_handle", "handle", unique=True),
    Index("lease_person", "annotator", "campaign", "state", "slot"),
    Index("lease_until", "state", "until"),
)

judgement = Table(
    "judgement",
    METADATA,
    _text("event_id", primary_key=True),
    _int("seq"),
    _text("task", _to("task", "task_id")),
    _text("annotator", _to("annotator", "annotator_id")),
    _text("purpose"),
    _int("repeat"),
    _text("campaign", _to("campaign", "name")),
    _text("digest"),  # of what the client said: two events of one id must have the same
    _text("body"),
    _text("replaces"),
    _int("late"),
    _real("at"),
    Index("judgement_seq", "seq", unique=True),
    Index("judgement_task", "task"),
    Index("judgement_person", "annotator", "campaign"),
)
head = Table(  # the judgement that stands, of those that replace each other
    "head",
    METADATA,
    _text("task", _to("task", "task_id"), primary_key=True),
    _text("annotator", _to("annotator", "annotator_id"), primary_key=True),
    _text("purpose", primary_key=True),
    _int("repeat", primary_key=True),
    _text("event_id", _to("judgement", "event_id")),
    _int("seq"),  # of the first of them: a correction keeps its place, an answer after one was taken back gets a new one
    _int("counted"),  # work: 1 for the first ``wanted`` that stand, one a person
    _int("retracted"),  # 1 by a retraction, 2 by the annotator, who may answer again
    Index("head_person", "annotator"),
    Index("head_event", "event_id"),
)
unjudged = Table(  # a judge was asked and gave no verdict: the last time
    "unjudged",
    METADATA,
    _text("task", _to("task", "task_id"), primary_key=True),
    _text("annotator", _to("annotator", "annotator_id"), primary_key=True),
    _text("error"),
    _real("at"),
)
retraction = Table(
    "retraction",
    METADATA,
    _int("seq", primary_key=True),
    _text("annotator"),  # empty when one event is taken back
    _text("event_id"),  # empty when all of an annotator's are
    _text("why"),
    _text("who"),
    _real("at"),
    Index("retraction_person", "annotator"),
)

snapshot = Table("snapshot", METADATA, _text("id", primary_key=True), _text("rows"), _text("query"), _int("count"), _real("at"))
artefact = Table(
    "artefact",
    METADATA,
    _text("kind", primary_key=True),
    _text("id", primary_key=True),
    _text("parent", primary_key=True),  # empty when it has none
    _text("detail"),
    Index("artefact_parent", "parent"),
)

account = Table(
    "account",
    METADATA,
    _text("name", primary_key=True),
    _text("annotator", _to("annotator", "annotator_id")),
    _text("role"),  # annotator, manager, adjudicator
    _text("salt"),
    _text("password"),  # scrypt
    _int("disabled"),
    _real("at"),
    Index("account_annotator", "annotator", unique=True),
)
session = Table(
    "session",
    METADATA,
    _text("digest", primary_key=True),  # sha256 of the token
    _text("account", _to("account", "name")),
    _real("at"),
    _real("until"),
    _int("revoked"),
    Index("session_account", "account"),
)
invitation = Table(
    "invitation",
    METADATA,
    _text("digest", primary_key=True),
    _text("role"),
    _text("campaign"),
    _int("uses_left"),
    _real("until"),
    _text("who"),
)
audit = Table("audit", METADATA, _int("seq", primary_key=True), _text("who"), _text("what"), _text("detail"), _real("at"))
media = Table("media", METADATA, _text("digest", primary_key=True), _text("path"), _text("mime"))
