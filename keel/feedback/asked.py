"""The part of the store that knows what is asked: campaigns, guidelines, annotators, tasks, and how far they are."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select

from keel.core.errors import DataError
from keel.feedback import campaigns, judged, schema
from keel.feedback.accounts import Accounts
from keel.feedback.campaigns import Campaign
from keel.feedback.tasks import Role, add_tasks, load_tasks, set_priority
from keel.types import Annotator, Task

T = TypeVar("T")
PART = 200  # rows a transaction of an import writes, so that votes get in between
_CACHED = 5000  # tasks kept in memory: they never change


class Asked(Accounts):
    """Methods of `keel.feedback.db.Store`, which brings ``write``, ``read`` and ``clock``."""

    _tasks: OrderedDict[str, Task]

    def add_campaign(self, campaign: Campaign) -> None:
        """The same campaign again changes nothing. Raises ConflictError, ConfigError."""
        self.write(lambda c: campaigns.add_campaign(c, campaign, self.clock())).result()

    def update_campaign(self, name: str, **changes: Any) -> Campaign:
        """Change paused, gold_share, repeat_share, lease_seconds, settings, guideline. Other ``settings`` place all items anew."""
        found = self.write(lambda c: campaigns.update_campaign(c, name, **changes)).result()
        for part in parts(self.task_ids(name)) if "settings" in changes else ():
            self.write(lambda c, part=part: judged.place(c, found, part)).result()
        return found

    def campaign(self, name: str) -> Campaign:
        return self.read(lambda c: campaigns.get_campaign(c, name))

    def campaigns(self) -> tuple[Campaign, ...]:
        return self.read(campaigns.campaigns)

    def add_guideline(self, version: str, text: str, weights: Mapping[str, float] | None = None) -> None:
        self.write(lambda c: campaigns.add_guideline(c, version, text, weights or {}, self.clock())).result()

    def guideline(self, version: str) -> tuple[str, dict[str, float]]:
        return self.read(lambda c: campaigns.get_guideline(c, version))

    def add_annotator(self, annotator: Annotator) -> None:
        self.write(lambda c: campaigns.add_annotator(c, annotator, self.clock())).result()

    def annotators(self) -> tuple[Annotator, ...]:
        return self.read(campaigns.annotators)

    def add_tasks(self, campaign: str, tasks: Iterable[Task], role: Role = "work", priority: float = 0.0) -> tuple[str, ...]:
        """Tasks in their order, a few hundred a transaction; returns their ids. Those that are there are left as they are."""
        ids: list[str] = []
        for part in parts(tasks):
            ids += self.write(lambda c, part=part: add_tasks(c, campaign, part, role, priority)).result()
        return tuple(ids)

    def set_priority(self, task_ids: Sequence[str], priority: float) -> None:
        """Higher ones are given out first; 0 is the usual."""
        for part in campaigns.chunks(task_ids):
            self.write(lambda c, part=part: set_priority(c, part, priority)).result()

    def not_judged(self, annotator: str, failed: Mapping[str, str]) -> None:
        """A judge was asked about these tasks and gave no verdict: errors by task. People get them first where the campaign says so."""

        self.tasks(list(failed))  # raises DataError for one that is not there

        def job(c: Connection, part: Sequence[tuple[str, str]]) -> None:
            judged.note_failures(c, annotator, part, self.clock())
            judged.place_where_followed(c, [task for task, _ in part])

        for part in parts(failed.items()):
            self.write(lambda c, part=part: job(c, part)).result()

    def task(self, task_id: str) -> Task:
        """Raises DataError when it is not there."""
        return self.tasks([task_id])[0]

    def tasks(self, task_ids: Sequence[str]) -> list[Task]:
        """Tasks by id, in this order. Raises DataError naming one that is not there."""
        return self._tasks_of(task_ids, lambda missing: self.read(lambda c: load_tasks(c, missing)))

    def _tasks_of(self, task_ids: Sequence[str], load: Callable[[Sequence[str]], dict[str, Task]]) -> list[Task]:
        known = {i: task for i in task_ids if (task := self._tasks.get(i)) is not None}
        missing = [i for i in dict.fromkeys(task_ids) if i not in known]
        if missing:
            found = load(missing)
            lost = next((i for i in missing if i not in found), None)
            if lost is not None:
                raise DataError(f"task {lost!r} is not in the store", "add_tasks adds tasks")
            known |= found
            self._tasks.update(found)
            while len(self._tasks) > _CACHED:
                self._tasks.popitem(last=False)
        return [known[i] for i in task_ids]

    def task_ids(self, campaign: str) -> tuple[str, ...]:
        """Ids of a campaign's tasks in their order."""
        t = schema.task
        return self.read(lambda c: tuple(c.scalars(select(t.c.task_id).where(t.c.campaign == campaign).order_by(t.c.position))))

    def progress(self, campaign: str) -> dict[str, int]:
        """Counts of a campaign: items of work, done and open ones, votes that count, leases, disputes, items that judges label, votes that
        people still owe."""
        return self.read(lambda c: _progress(c, campaign))


def parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Parts of a transaction each, with a moment between them for other processes: they would find SQLite's lock taken whenever they look,
    until the last part is in."""
    part: list[T] = []
    for row in rows:
        if len(part) == PART:
            began = time.monotonic()
            yield part
            _give_way(time.monotonic() - began)
            part = []
        part.append(row)
    if part:
        yield part


def _give_way(held: float) -> None:
    """Wait until whoever waited for the lock while it was ``held`` so many seconds has looked again: SQLite looks every 25 ms at first,
    and after 0.2 s every 100 ms."""
    time.sleep(0.03 if held < 0.1 else 0.11)


def _progress(c: Connection, campaign: str) -> dict[str, int]:
    t = schema.task
    campaigns.get_campaign(c, campaign)
    one = (t.c.campaign == campaign, t.c.role == "work")
    full = func.coalesce(func.sum(t.c.done), 0), func.coalesce(func.sum(t.c.leased), 0), func.coalesce(func.sum(t.c.open), 0)
    items, votes, leased, opened = c.execute(select(func.count(), *full).where(*one)).one()
    done = c.execute(select(func.count()).where(*one, (t.c.done >= t.c.wanted) | (t.c.by_judge == 1))).scalar_one()
    disputed = c.execute(select(func.count()).where(*one, t.c.dispute == 1)).scalar_one()
    counts = {"items": items, "done": done, "open": opened, "votes": votes, "leases": leased, "disputed": disputed}
    return {name: int(value) for name, value in counts.items()} | judged.counts(c, campaign)
