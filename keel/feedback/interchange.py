"""Keel's own files into a store and out of it: all of a campaign, line by line, or comparisons as other verbs write them.

A line of a whole campaign is ``{"campaign": {...}}``, ``{"guideline": {...}}``, ``{"annotator": {...}}``, ``{"task": {...}, "role": ...,
"priority": ...}``, ``{"judgement": {...}}`` or ``{"retraction": {...}}``, in an order in which they can be read back.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from keel.core.errors import DataError
from keel.feedback import schema
from keel.feedback import store as files
from keel.feedback.campaigns import Campaign, settings_from
from keel.feedback.db import Store
from keel.feedback.rows import annotator_from, annotator_row, digest, judgement_from, judgement_row, named, task_from, task_row, utc
from keel.feedback.texts import RowError
from keel.types import Annotator, Choice, Comparison, Judgement, Task

_KINDS: tuple[str, ...] = ("campaign", "guideline", "annotator", "task", "judgement", "retraction")


def put_comparisons(store: Store, campaign: str, comparisons: Sequence[Comparison], annotators: Sequence[Annotator]) -> int:
    """Comparisons as tasks and judgements of a campaign, which is made when missing; returns how many judgements are new.

    The events' ids follow from the comparisons, so that the same ones again change nothing. An annotator's second vote on two candidates
    is a repeat.
    """
    if not comparisons:
        return 0
    votes, order = dict[tuple[str, str], int](), [(c, _task(c, campaign)) for c in comparisons]
    if all(c.name != campaign for c in store.campaigns()):
        people = defaultdict[str, set[str]](set)
        for c, task in order:
            people[task.task_id].add(c.annotator_id)
        store.add_campaign(Campaign(campaign, max(map(len, people.values())), "pairwise", comparisons[0].protocol))
    for annotator in annotators:
        store.add_annotator(annotator)
    store.add_tasks(campaign, list({t.task_id: t for _, t in order}.values()))
    at, said = utc(store.clock()), list[Judgement]()
    for c, task in order:
        ids = [x.candidate_id for x in task.candidates]
        flipped = [x.candidate_id for x in c.candidates] != ids
        repeat = votes[c.annotator_id, task.task_id] = votes.get((c.annotator_id, task.task_id), -1) + 1
        said.append(_judgement(c, task, flipped, repeat, at))
    return store.record(said)


def write_campaign(store: Store, name: str, path: Path, without: Sequence[str] = ()) -> dict[str, int]:
    """All of a campaign, without some annotators, as lines that `read_files` reads back. Returns the number of lines by kind."""
    counts = dict.fromkeys(_KINDS, 0)
    with path.open("w", encoding="utf-8") as file:
        for kind, line in _lines(store, name, frozenset(without)):
            counts[kind] += 1
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    return counts


def is_own(path: Path) -> bool:
    """Are these lines of whole campaigns, or Keel's comparisons?"""
    try:
        with path.open(encoding="utf-8") as file:
            first = next((json.loads(line) for line in file if line.strip()), None)
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and (any(kind in first for kind in _KINDS) or {"record_id", "candidates", "outcome"} <= first.keys())


def read_files(store: Store, paths: Sequence[Path], campaign: str = "") -> dict[str, int]:
    """Lines of whole campaigns, or comparisons (which go to ``campaign``). Returns what is new by kind; what is there already stays.

    Raises DataError naming file and line.
    """
    counts = dict.fromkeys(_KINDS, 0)
    for path in paths:
        try:
            lines = [(i, line) for i, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1) if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}", "give a JSON Lines file in UTF-8") from None
        if lines and not any(lines[0][1].lstrip().startswith(f'{{"{kind}":') for kind in _KINDS):
            comparisons = files.read(path)
            people = [Annotator(name, "person") for name in sorted({c.annotator_id for c in comparisons})]
            known = {a.annotator_id for a in store.annotators()}
            new = [a for a in people if a.annotator_id not in known]
            counts["judgement"] += put_comparisons(store, campaign or path.stem, comparisons, new)
            counts["annotator"] += len(new)
            continue
        _read_lines(store, path, lines, counts)
    return counts


def _read_lines(store: Store, path: Path, lines: Sequence[tuple[int, str]], counts: dict[str, int]) -> None:
    waiting: list[tuple[int, Judgement]] = []
    tasks: list[tuple[int, Task]] = []
    like: tuple[str, float] = ("work", 0.0)

    def flush() -> None:
        try:
            if tasks:
                store.add_tasks(tasks[0][1].campaign, [t for _, t in tasks], like[0], like[1])  # type: ignore[arg-type]
            counts["judgement"] += store.record([j for _, j in waiting])
        except DataError as error:
            first = (tasks or waiting)[0][0]
            raise DataError(f"{path}:{first} and after: {error.message}", error.hint) from None
        counts["task"] += len(tasks)
        tasks.clear()
        waiting.clear()

    for number, text in lines:
        try:
            row = json.loads(text)
            kind = next((k for k in _KINDS if isinstance(row, dict) and k in row), "")
            if kind == "task":
                task, here = task_from(row["task"]), (row.get("role", "work"), float(row.get("priority", 0.0)))
                if waiting or here != like or (tasks and tasks[0][1].campaign != task.campaign):
                    flush()
                    like = here
                tasks.append((number, task))
            elif kind == "judgement":
                if tasks:
                    flush()
                waiting.append((number, judgement_from(row["judgement"])))
            elif kind:
                flush()
                counts[kind] += _put(store, kind, row[kind])
            else:
                raise RowError("line", f"must hold one of {', '.join(_KINDS)}")
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: broken JSON: {error.msg}", "correct the line or delete it") from None
        except RowError as error:
            raise DataError(f"{path}:{number}: {error.message}", error.hint) from None
    flush()


def _put(store: Store, kind: str, row: Mapping[str, Any]) -> int:
    try:
        if kind == "campaign":
            store.add_campaign(Campaign(**{**row, "settings": settings_from(row.get("settings", {}))}))
        elif kind == "guideline":
            store.add_guideline(row["version"], row["text"], row.get("weights"))
        elif kind == "annotator":
            store.add_annotator(annotator_from(row))
        else:
            taken = {(r["annotator"], r["event_id"]) for r in retractions(store)}
            if (row["annotator"], row["event_id"]) in taken:
                return 0
            store.retract(annotator=row["annotator"], event_id=row["event_id"], why=row["why"], who=row["who"])
    except (KeyError, TypeError) as error:
        raise RowError(kind, f"is not complete or has an unknown field: {error}") from None
    return 1


def retractions(store: Store) -> list[dict[str, Any]]:
    """Who or what was taken back, in order: annotator or event_id, why, who."""
    r = schema.retraction
    rows = store.read(lambda c: c.execute(select(r).order_by(r.c.seq)).all())
    return [{"annotator": x.annotator, "event_id": x.event_id, "why": x.why, "who": x.who} for x in rows]


def _lines(store: Store, name: str, without: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    campaign = store.campaign(name)
    t = schema.task
    kept = [j for j in store.judgements(name) if j.by not in without]
    by, events = {j.by for j in kept}, {j.event_id for j in kept}
    if campaign.guideline:
        text, weights = store.guideline(campaign.guideline)
        yield "guideline", {"guideline": {"version": campaign.guideline, "text": text, "weights": weights}}
    yield "campaign", {"campaign": asdict(campaign)}
    for annotator in store.annotators():
        if annotator.annotator_id in by:
            yield "annotator", {"annotator": annotator_row(annotator)}
    query = select(t.c.task_id, t.c.role, t.c.urgency).where(t.c.campaign == name).order_by(t.c.position)
    placed = store.read(lambda c: c.execute(query).all())
    for row, task in zip(placed, store.tasks([r.task_id for r in placed]), strict=True):
        yield "task", {"task": task_row(task), "role": row.role, "priority": -row.urgency}
    for judgement in kept:
        yield "judgement", {"judgement": judgement_row(judgement)}
    for row in retractions(store):
        if row["annotator"] in by or row["event_id"] in events:
            yield "retraction", {"retraction": row}


def _task(c: Comparison, campaign: str) -> Task:
    first, second = sorted(c.candidates, key=lambda x: x.candidate_id)
    return named(Task("", c.prompt, (first, second), "pairwise", c.protocol, campaign=campaign))


def _judgement(c: Comparison, task: Task, flipped: bool, repeat: int, at: str) -> Judgement:
    chosen = {"first": "second", "second": "first"}.get(c.outcome, c.outcome) if flipped else c.outcome
    order = tuple(1 - i for i in c.display_order) if flipped else c.display_order
    event = digest([task.task_id, chosen, c.strength, c.annotator_id, list(order), c.record_id])  # the task's id has the rest
    said = Judgement(event, task.task_id, c.annotator_id, "work", Choice(chosen, c.strength), order, c.protocol, at, source_id=c.source_id)  # type: ignore[arg-type]
    return replace(said, purpose="repeat" if repeat else "work", repeat=repeat)
