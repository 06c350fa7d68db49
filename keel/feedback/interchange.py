"""A campaign out of a store, line by line, and comparisons as other verbs make them into one. `own_files` reads lines back.

A line of a whole campaign is ``{"campaign": {...}}``, ``{"guideline": {...}}``, ``{"annotator": {...}}``, ``{"task": {...}, "role": ...,
"priority": ...}``, ``{"judgement": {...}}`` or ``{"retraction": {...}}``, in an order in which they can be read back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from keel.feedback import schema
from keel.feedback.arrivals import ensure, fresh
from keel.feedback.db import Store
from keel.feedback.exchange.files import write_text
from keel.feedback.own_rows import KINDS
from keel.feedback.rows import annotator_row, digest, judgement_row, named, task_line, utc
from keel.feedback.views import Standing, check_known
from keel.types import Annotator, Choice, Comparison, Judgement, TakenBack, Task


def put_comparisons(store: Store, campaign: str, comparisons: Sequence[Comparison], annotators: Sequence[Annotator]) -> int:
    """Comparisons as tasks and judgements of a campaign, which is made when missing; returns how many judgements are new.

    The events' ids follow from the comparisons, so that the same ones again change nothing, and more of them are added. An annotator's
    further vote on two candidates is a repeat.
    """
    if not comparisons:
        return 0
    order = [(c, _task(c, campaign)) for c in comparisons]
    votes, at, said = Counter[tuple[str, str]](), utc(store.clock()), list[Judgement]()
    for c, task in order:
        flipped = [x.candidate_id for x in c.candidates] != [x.candidate_id for x in task.candidates]
        said.append(_judgement(c, task, flipped, votes[c.annotator_id, task.task_id], at))
        votes[c.annotator_id, task.task_id] += 1
    new, _ = fresh(store, campaign, said)
    ensure(store, campaign, "pairwise", comparisons[0].protocol, new)
    for annotator in annotators:
        store.add_annotator(annotator)
    store.add_tasks(campaign, list({t.task_id: t for _, t in order}.values()))
    return store.record(new)


def write_campaign(store: Store, name: str, path: Path, without: Sequence[str] = ()) -> dict[str, int]:
    """All of a campaign, without some annotators, as lines that `own_files.read_files` reads back. Returns the number of lines by kind.
    Raises ConfigError for an annotator whom the store does not know."""
    check_known(store, without)
    counts = dict.fromkeys(KINDS, 0)
    lines: list[str] = []
    for kind, line in _lines(store, name, frozenset(without)):
        counts[kind] += 1
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(path, "".join(lines))
    return counts


def retractions(store: Store) -> list[dict[str, Any]]:
    """Who or what was taken back, in order: annotator or event_id, why, who."""
    r = schema.retraction
    rows = store.read(lambda c: c.execute(select(r).order_by(r.c.seq)).all())
    return [{"annotator": x.annotator, "event_id": x.event_id, "why": x.why, "who": x.who} for x in rows]


def unjudged(store: Store, campaign: str) -> list[dict[str, Any]]:
    """Which judge gave no verdict on which task, and why: the last time each was asked."""
    u, t = schema.unjudged, schema.task
    query = select(u).join(t, t.c.task_id == u.c.task).where(t.c.campaign == campaign).order_by(t.c.position, u.c.annotator)
    rows = store.read(lambda c: c.execute(query).all())
    return [{"task": x.task, "annotator": x.annotator, "error": x.error} for x in rows]


def _lines(store: Store, name: str, without: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    campaign = store.campaign(name)
    t = schema.task
    kept = [j for j in store.judgements(name) if j.by not in without]
    failed = [row for row in unjudged(store, name) if row["annotator"] not in without]
    by, events, standing = {j.by for j in kept} | {row["annotator"] for row in failed}, {j.event_id for j in kept}, store.standing(name)
    query = select(t.c.task_id, t.c.role, t.c.urgency).where(t.c.campaign == name).order_by(t.c.position)
    placed = store.read(lambda c: c.execute(query).all())
    tasks = store.tasks([r.task_id for r in placed])
    followed = dict.fromkeys([campaign.guideline, *(x.guideline for x in (*tasks, *kept))])  # answers under an older version need its text
    known = store.read(lambda c: set(c.execute(select(schema.guideline.c.version)).scalars()))
    for version in (v for v in followed if v in known):
        text, weights = store.guideline(version)
        yield "guideline", {"guideline": {"version": version, "text": text, "weights": weights}}
    yield "campaign", {"campaign": asdict(campaign)}
    for annotator in store.annotators():
        if annotator.annotator_id in by:
            yield "annotator", {"annotator": annotator_row(annotator)}
    for row, task in zip(placed, tasks, strict=True):
        yield "task", task_line(task, row.role, -row.urgency)
    for judgement in kept:
        yield "judgement", {"judgement": judgement_row(judgement)}
    yield from (("unjudged", {"unjudged": row}) for row in failed)
    taken = retractions(store)
    told = {row["event_id"] for row in taken}
    for row in taken:
        if row["annotator"] in by or row["event_id"] in events:
            yield "retraction", {"retraction": row}
            if (stands := _corrected_since(row["event_id"], kept, standing)) is not None and stands not in told:
                yield "retraction", {"retraction": {**row, "event_id": stands}}


def _corrected_since(event: str, judgements: Sequence[Judgement], standing: Mapping[str, Standing]) -> str | None:
    """The correction that took a retracted event's place and is as little heard. Whoever reads the judgements first and the retractions
    afterwards would find nothing to take back at the event itself."""
    later = {j.replaces: j for j in judgements if j.replaces}
    last = None
    while event in later:
        last = later[event]
        event = last.event_id
    if last is None or isinstance(last.answer, TakenBack) or not standing[event].retracted:
        return None
    return event


def _task(c: Comparison, campaign: str) -> Task:
    first, second = sorted(c.candidates, key=lambda x: x.candidate_id)
    return named(Task("", c.prompt, (first, second), "pairwise", c.protocol, campaign=campaign))


def _judgement(c: Comparison, task: Task, flipped: bool, repeat: int, at: str) -> Judgement:
    chosen = {"first": "second", "second": "first"}.get(c.outcome, c.outcome) if flipped else c.outcome
    order = tuple(1 - i for i in c.display_order) if flipped else c.display_order
    event = digest([task.task_id, chosen, c.strength, c.annotator_id, list(order), c.record_id])  # the task's id has the rest
    said = Judgement(event, task.task_id, c.annotator_id, "work", Choice(chosen, c.strength), order, c.protocol, at, source_id=c.source_id)  # type: ignore[arg-type]
    return replace(said, purpose="repeat" if repeat else "work", repeat=repeat)
