"""Snapshots: which judgements trained something. A hash of events and query; what it names never changes, so what it gives never does.

``store:URL#ID`` is a data path that training reads: comparisons, rankings or ratings, or after ``ID/unpaired`` the answers that people
called bad both.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from keel.core.errors import DataError
from keel.feedback import schema, views
from keel.feedback.campaigns import add_missing, chunks
from keel.feedback.db import Store
from keel.feedback.rows import digest, dumps
from keel.feedback.store import to_row
from keel.feedback.texts import message_row, prompt_row
from keel.types import Ranking, Rating, Unpaired

log = logging.getLogger("keel")
SCHEME = "store:"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Events in the order in which they came, and what they were asked for with."""

    id: str
    events: tuple[str, ...]
    query: dict[str, Any]


def take(store: Store, campaign: str, without: Sequence[str] = (), *, surplus: bool = False) -> Snapshot:
    """Freeze the view of a campaign as it is now. The same votes and the same question give the same id. Raises DataError when empty,
    ConfigError for an annotator to be left out whom the store does not know."""
    return take_all(store, campaign, without, surplus=surplus)[0]


def take_all(store: Store, campaign: str, without: Sequence[str] = (), *, surplus: bool = False) -> tuple[Snapshot, Mapping[str, int]]:
    """`take`, and how many judgements are not in it, by reason."""
    view = views.of_store(store, campaign, surplus=surplus, without=without)
    if not view.events:
        raise DataError(f"campaign {campaign} has no votes that could be trained on", f"left out: {view.left_out}")
    query = {"campaign": campaign, "without": sorted(set(without)), "surplus": surplus}
    digests = _digests(store, view.events)
    found = Snapshot(digest({"rows": [[e, digests[e]] for e in view.events], "query": query})[:16], view.events, query)
    row = {"id": found.id, "rows": dumps(list(view.events)), "query": dumps(query), "count": len(view.events)}

    def job(c: Any) -> None:
        if c.execute(select(schema.snapshot.c.id).where(schema.snapshot.c.id == found.id)).first() is None:
            c.execute(insert(schema.snapshot), {**row, "at": store.clock()})
            parts = [{"kind": "snapshot", "id": found.id, "parent": campaign, "detail": dumps(query)}]
            add_missing(c, schema.artefact, parts)

    store.write(job).result()
    return found, view.left_out


def snapshots(store: Store) -> tuple[Snapshot, ...]:
    """All snapshots, oldest first."""
    rows = store.read(lambda c: c.execute(select(schema.snapshot).order_by(schema.snapshot.c.at, schema.snapshot.c.id)).all())
    return tuple(Snapshot(r.id, tuple(json.loads(r.rows)), json.loads(r.query)) for r in rows)


def get(store: Store, snapshot_id: str) -> Snapshot:
    """Raises DataError when there is none of this id."""
    found = next((s for s in snapshots(store) if s.id == snapshot_id), None)
    if found is None:
        raise DataError(f"snapshot {snapshot_id!r} is not in the store", "`keel feedback status` lists them")
    return found


def rows_of(store: Store, snapshot: Snapshot) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of the campaign's kind, rows of unwanted answers): what the events say, whatever was corrected or taken back since."""
    wanted = set(snapshot.events)
    said = {j.event_id: j for j in store.judgements(snapshot.query["campaign"]) if j.event_id in wanted}
    judgements = [said[e] for e in snapshot.events]
    tasks = store.tasks([j.task_id for j in judgements])
    rows: list[dict[str, Any]] = []
    unwanted: list[dict[str, Any]] = []
    for judgement, task in zip(judgements, tasks, strict=True):
        for record in views.records(judgement, task):
            (unwanted if isinstance(record, Unpaired) else rows).append(record_row(record))
    return rows, unwanted


def record_row(record: Any) -> dict[str, Any]:
    """A record of a view as the row that Keel's data layouts read. Raises DataError for marked spans: no layout has them."""
    match record:
        case Unpaired():
            said = {"completion": [message_row(m) for m in record.answer], "label": record.desirable}
            return {"record_id": record.record_id, **prompt_row(record.prompt), **said}
        case Ranking():
            answers = [[message_row(m) for m in answer] for answer in record.answers]
            return {"record_id": record.record_id, **prompt_row(record.prompt), "answers": answers, "ranks": list(record.ranks)}
        case Rating():
            said = {"answer": [message_row(m) for m in record.answer], "scores": dict(record.scores)}
            return {"record_id": record.record_id, **prompt_row(record.prompt), **said}
        case tuple():
            raise DataError("marked spans are no training data of a layout", "`keel feedback export --as judgements` writes them")
    return to_row(record)


def read_rows(path: str) -> tuple[list[dict[str, Any]], str, str]:
    """(rows, fingerprint, name) of ``store:URL#ID`` or ``store:URL#ID/unpaired``. The fingerprint is the snapshot's id."""
    url, mark, wanted = path.removeprefix(SCHEME).rpartition("#")
    if not mark or not wanted:
        raise DataError(f"{path}: no snapshot is named", "store:URL#ID; `keel feedback snapshot` makes one and prints its id")
    name, _, part = wanted.partition("/")
    if part not in ("", "unpaired"):
        raise DataError(f"{path}: {part!r} is no part of a snapshot", "there is ID and ID/unpaired")
    with Store(url) as store:
        snapshot = get(store, name)
        gone = [e for e, state in store.standing(snapshot.query["campaign"]).items() if state.retracted and e in set(snapshot.events)]
        if gone:
            log.warning("%s: %d of its %d judgements were retracted since", name, len(gone), len(snapshot.events))
        rows, unwanted = rows_of(store, snapshot)
        shown = f"{SCHEME}{store.url.render_as_string(hide_password=True)}#{wanted}"
    chosen = unwanted if part else rows
    if not chosen:
        raise DataError(f"{shown}: the snapshot has no such rows", "ID gives what was preferred, ID/unpaired unwanted answers")
    return chosen, snapshot.id, shown


def _digests(store: Store, events: Sequence[str]) -> dict[str, str]:
    j = schema.judgement
    parts = chunks(events)
    query = select(j.c.event_id, j.c.digest)
    return {r.event_id: r.digest for part in parts for r in store.read(lambda c, p=part: c.execute(query.where(j.c.event_id.in_(p))).all())}
