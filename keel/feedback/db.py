"""The store of feedback: people's, judges', reward models' and simulated annotators' judgements in one database. No torch.

    store = Store("sqlite:///feedback.db")                 # or postgresql://user@host/name; tables are made and brought up to date
    store.add_campaign(Campaign("shop", wanted=3, kind="pairwise", protocol="pairwise-v1"))
    store.add_tasks("shop", tasks)                         # role="gold" | "training" | "qualification" for known items
    store.add_annotator(Annotator("ann", "person"))        # accounts (`add_account`) make their annotator themselves
    for item in store.next_items("ann", "shop", 5):        # leases: nobody sees an item twice, n people each
        store.answer("ann", item.handle, event_id, Choice("first", 0.8))   # places as they stood on the screen
    store.close()                                          # writes what waits

Whatever writes returns after it is on the disk. ``*_soon`` return a ``concurrent.futures.Future`` instead. `giving` and `answering` make
jobs: ``await store.write_async(store.answering(...))`` in an event loop. Any thread may call any method. Errors: `ConflictError` (409:
another answer is there), `NoLeaseError` (403), `DataError`, `ConfigError` (400).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select

from keel.feedback import adjudication, assign, events, judged, leases, members, migrate, people, schema, sql, tally
from keel.feedback.answers import check_answer, from_display
from keel.feedback.asked import Asked, parts
from keel.feedback.campaigns import Campaign, ConflictError
from keel.feedback.events import Receipt
from keel.feedback.given import Given, Item, items_of
from keel.feedback.leases import Lease, NoLeaseError
from keel.feedback.people import Account
from keel.feedback.rows import RowError, check_judgement, dumps, judgement_from, utc
from keel.feedback.tasks import load_tasks
from keel.feedback.views import Standing
from keel.feedback.writer import Worker
from keel.types import Answer, Judgement, TakenBack, Task

__all__ = ["Account", "Campaign", "ConflictError", "Item", "NoLeaseError", "Receipt", "RowError", "Store"]

T = TypeVar("T")
Job = Callable[[Connection], T]


class Store(Asked):
    """An open store. ``clock`` gives seconds since 1970."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self.url = sql.make_url(url)
        self.clock = clock
        self._writes, self._reads = sql.engine(self.url, writes=True), sql.engine(self.url, writes=False)
        self._tasks = OrderedDict[str, Task]()
        with self._writes.begin() as c:
            migrate.migrate(c)
            self._secret = leases.secret_of(c)
        self.writer, self.reader = Worker(self._writes, "keel-feedback-writer"), Worker(self._reads, "keel-feedback-reader")

    def close(self) -> None:
        """Write what waits, then let go of the database."""
        self.writer.close()
        self.reader.close()
        self._writes.dispose()
        self._reads.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------- any work

    def write(self, job: Callable[[Connection], T]) -> Future[T]:
        """A job for the writer: all of it is stored or nothing; the future is done after the commit."""
        return self.writer.put(job)

    def write_async(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """`write` for the running event loop: cheaper than a future of a thread, of which each wakes the loop by itself."""
        return self.writer.put_async(job)

    def read_async(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """`read` for the running event loop, together with what others ask for at that moment. For short jobs."""
        return self.reader.put_async(job)

    def read(self, job: Callable[[Connection], T]) -> T:
        """A job on a reader's connection; it sees what was committed when it began."""
        with self._reads.connect() as connection, connection.begin():
            return job(connection)

    # ------------------------------------------------------------------------------------------------ who gets what

    def next_items(self, annotator: str, campaign: str, n: int = 1) -> tuple[Item, ...]:
        """At most ``n`` items: those that the person has open first, then new ones. Asking again renews the leases."""
        return self.write(self.giving(annotator, campaign, n)).result().items

    def giving(self, annotator: str, campaign: str, n: int, first: Callable[[Connection], None] | None = None) -> Job[Given]:
        """`next_items` and where the person stands, as a job for `write` or `write_async`; ``first`` is done before, and may refuse.

        All of it is read where it is written, in one transaction: readers on threads of their own would stand in the way of the votes.
        """

        def job(c: Connection) -> Given:
            if first is not None:
                first(c)
            given = assign.grant(c, annotator, campaign, n, self.clock(), self._secret)
            tasks = self._tasks_of([lease.task_id for lease in given.leases], lambda missing: load_tasks(c, missing))
            return Given(given.leases, items_of(given.leases, tasks), given.state, given.answered, given.campaign)

        return job

    def next_adjudications(self, annotator: str, campaign: str, n: int = 1) -> tuple[Item, ...]:
        """Items whose votes disagree, for a person whose account has the role adjudicator or manager. Raises NoLeaseError for others."""

        def job(c: Connection) -> tuple[Lease, ...]:
            if people.role_of(c, annotator) not in ("adjudicator", "manager"):
                raise NoLeaseError(f"{annotator} is no adjudicator", "give the account the role adjudicator")
            return adjudication.grant_adjudication(c, annotator, campaign, n, self.clock(), self._secret)

        return self.items(self.write(job).result())

    def items(self, leases: Sequence[Lease]) -> tuple[Item, ...]:
        """What the annotator may see of leases."""
        return items_of(leases, self.tasks([lease.task_id for lease in leases]))

    def member_state(self, annotator: str, campaign: str) -> str:
        """training, qualification, passed or failed."""
        return self.write(lambda c: members.member_state(c, annotator, campaign)).result()

    # --------------------------------------------------------------------------------------------------- what is said

    def answer(self, annotator: str, handle: str, event_id: str, answer: Answer, **more: Any) -> Receipt:
        """The answer to an item: `answering`, done and waited for."""
        return self.answer_soon(annotator, handle, event_id, answer, **more).result()

    def answer_soon(self, annotator: str, handle: str, event_id: str, answer: Answer, **more: Any) -> Future[Receipt]:
        """`answer` as a future."""
        return self.write(self.answering(annotator, handle, event_id, answer, **more))

    def answering(
        self,
        annotator: str,
        handle: str,
        event_id: str,
        answer: Answer,
        *,
        lease: Lease | None = None,
        active_ms: int | None = None,
        reason: str = "",
        replaces: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Job[Receipt]:
        """The answer to an item, as a job for `write` or `write_async`. ``answer`` names places on the screen; the server's clock says
        when.

        ``event_id`` is made by the client, once an answer: sent twice, stored once. ``replaces`` is the event that this one corrects.
        ``lease`` saves looking it up where it is known that the handle is this person's.

        The job raises NoLeaseError when the handle is not this person's, RowError for an impossible answer, ConflictError.
        """
        more = {"active_ms": active_ms, "reason": reason, "replaces": replaces, "meta": dict(meta or {})}
        dumps(more)  # refuses what JSON does not hold, before anything waits

        def job(c: Connection) -> Receipt:
            found = lease or leases.by_handle(c, annotator, handle)
            task = self._tasks.get(found.task_id) or load_tasks(c, [found.task_id])[found.task_id]
            judgement = _judgement(found, task, event_id, answer, utc(self.clock()), more)
            check_judgement(judgement, task)
            return events.submit(c, judgement, task, self.clock(), self._secret)

        return job

    def submit(self, judgement: Judgement) -> Receipt:
        """Store the judgement of an item that was given out. Places are those of the task."""
        return self.submit_soon(judgement).result()

    def submit_soon(self, judgement: Judgement, *, leased: bool = True) -> Future[Receipt]:
        """`submit` as a future. Raises RowError at once for an impossible judgement."""
        task = self.task(judgement.task_id)
        check_judgement(judgement, task)
        dumps(dict(judgement.meta))  # refuses what JSON does not hold, before anything waits
        return self.write(lambda c: events.submit(c, judgement, task, self.clock(), self._secret, leased=leased))

    def record(self, judgements: Iterable[Judgement]) -> int:
        """Judgements that were given elsewhere (judges, simulated annotators, imports), without leases; a part is stored or none of it.

        Returns how many are new. Those that are there with the same content are left; raises ConflictError for other content.
        """
        stored = 0
        for part in parts(judgements):
            checked = list(zip(part, self.tasks([j.task_id for j in part]), strict=True))
            for judgement, task in checked:
                check_judgement(judgement, task)
            stored += self.write(lambda c, checked=checked: self._record(c, checked)).result()
        return stored

    def judgements(self, campaign: str = "", *, task_ids: Sequence[str] = (), annotator: str = "") -> tuple[Judgement, ...]:
        """All events in the order in which they came, also those that were replaced or retracted."""
        j = schema.judgement
        query = select(j.c.body).order_by(j.c.seq)
        query = query.where(j.c.campaign == campaign) if campaign else query
        query = query.where(j.c.annotator == annotator) if annotator else query
        query = query.where(j.c.task.in_(task_ids)) if task_ids else query
        return self.read(lambda c: tuple(judgement_from(json.loads(body)) for body in c.execute(query).scalars()))

    def retract(self, *, annotator: str = "", event_id: str = "", why: str = "", who: str = "") -> tuple[str, ...]:
        """Take back all of an annotator's judgements, or one. Nothing is deleted. Returns the tasks that lost a vote; they open again."""

        def job(c: Connection) -> tuple[str, ...]:
            tasks = tally.retract(c, annotator, event_id, why, who, self.clock())
            judged.place_where_followed(c, tasks)
            return tasks

        return self.write(job).result()

    def take_back(self, annotator: str, handle: str, event_id: str, replaces: str) -> Receipt:
        """An annotator takes back the event ``replaces`` without another answer; the item is open to them again. `answer_soon`'s errors."""
        return self.answer(annotator, handle, event_id, TakenBack(), replaces=replaces)

    def widen(self, campaign: str, wanted: int) -> None:
        """More people an item than there were, never fewer: votes beyond the old number count now, as far as there is room."""
        self.write(lambda c: tally.widen(c, campaign, wanted)).result()

    def standing(self, campaign: str) -> dict[str, Standing]:
        """The events that no correction replaced: do they count, were they taken back?"""
        return self.read(lambda c: judged.standing(c, campaign))

    # ------------------------------------------------------------------------------------------------------ insides

    def _record(self, c: Connection, checked: Sequence[tuple[Judgement, Task]]) -> int:
        before = _count(c)
        for judgement, task in checked:
            events.submit(c, judgement, task, self.clock(), self._secret, leased=False)
        judged.placed_after(c, [j for j, _ in checked])
        return _count(c) - before


def _count(c: Connection) -> int:
    return c.execute(select(func.max(schema.judgement.c.seq))).scalar() or 0


def _judgement(lease: Lease, task: Task, event_id: str, shown: Answer, at: str, more: Mapping[str, Any]) -> Judgement:
    """What the person at the screen said, by places of the task."""
    check_answer(shown, task.kind, [task.candidates[i].text for i in lease.display_order])
    said, order = from_display(shown, lease.display_order), lease.display_order
    given = (event_id, lease.task_id, lease.annotator, lease.purpose, said, order, task.protocol, at, lease.repeat)
    return Judgement(*given, guideline=task.guideline, **more)
