"""Keel's own rows of feedback, one JSON object a line: ``{"task": {...}}``, ``{"annotator": {...}}``, ``{"judgement": {...}}``; exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keel.data.left_out import LeftOut
from keel.data.sources import read_plain
from keel.feedback import rows
from keel.feedback.exchange import files
from keel.feedback.exchange.imported import Imported
from keel.feedback.texts import RowError
from keel.types.judgements import Annotator, Judgement, Task

NAME = "keel"
_KINDS = ("task", "annotator", "judgement")
_OF_A_STORE = ("campaign", "guideline", "retraction", "role", "priority")  # what an exported campaign holds beside them


def fits(values: Mapping[str, Any]) -> bool:
    kinds = [k for k in values if k in (*_KINDS, *_OF_A_STORE[:3])]
    return len(kinds) == 1 and isinstance(values[kinds[0]], dict) and set(values) <= {*_KINDS, *_OF_A_STORE}


def read(path: Path, content: bytes | None = None) -> Imported:
    """The records, each id once. Left out by name: rows with an impossible value, an id that stands for something else already, judgements
    whose task is not in the file, and of an exported campaign the lines that only a store has a place for."""
    source = read_plain(path, content)
    left = [LeftOut("", f"{b.file}:{b.line}", f"{b.field}: {b.reason}" if b.field else b.reason) for b in source.bad]
    tasks: dict[str, Task] = {}
    annotators: dict[str, Annotator] = {}
    judgements: dict[str, Judgement] = {}
    places: dict[str, str] = {}

    def note(store: dict[str, Any], name: str, record: Any, place: str) -> None:
        if store.setdefault(name, record) is not record:
            what = "stands twice" if store[name] == record else "stands twice with different content; the first is taken"
            left.append(LeftOut(name, place, f"id: {what}"))
        else:
            places.setdefault(name, place)

    readers: Mapping[str, Callable[[Any, str], None]] = {
        "task": lambda row, place: note(tasks, (t := rows.task_from(row)).task_id, t, place),
        "annotator": lambda row, place: note(annotators, (a := rows.annotator_from(row)).annotator_id, a, place),
        "judgement": lambda row, place: note(judgements, (j := rows.judgement_from(row)).event_id, j, place),
    }
    for row in source.rows:
        kind = next((k for k in _KINDS if k in row.values), None)
        if kind is None or not set(row.values) <= {kind, *_OF_A_STORE[3:]}:
            left.append(LeftOut("", row.place, f"a row must be one of {', '.join(_KINDS)}, has: {', '.join(row.values)}"))
            continue
        try:
            readers[kind](row.values[kind], row.place)
        except RowError as error:
            left.append(LeftOut("", row.place, f"{kind}.{error.field}: {error.reason}"))
    kept = [j for j in judgements.values() if _belongs(j, tasks, places, left)]
    return Imported(tuple(tasks.values()), tuple(kept), tuple(annotators.values()), tuple(left))


def _belongs(judgement: Judgement, tasks: Mapping[str, Task], places: Mapping[str, str], left: list[LeftOut]) -> bool:
    """Does a judgement answer a task of the file, possibly?"""
    place = places[judgement.event_id]
    if judgement.task_id not in tasks:
        left.append(LeftOut(judgement.event_id, place, f"judgement.task_id: no task {judgement.task_id!r} in this file"))
        return False
    try:
        rows.check_judgement(judgement, tasks[judgement.task_id])
    except RowError as error:
        left.append(LeftOut(judgement.event_id, place, f"judgement.{error.field}: {error.reason}"))
        return False
    return True


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """Tasks, annotators, judgements, in this order. Everything has its place."""
    out: list[Mapping[str, Any]] = [{"task": rows.task_row(t)} for t in imported.tasks]
    out += [{"annotator": rows.annotator_row(a)} for a in imported.annotators]
    out += [{"judgement": rows.judgement_row(j)} for j in imported.judgements]
    files.write_lines(path, out)
    return ()
