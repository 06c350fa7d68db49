"""Tasks, judgements and annotators as plain JSON rows, and back, exactly. Every error names its field. No torch.

``task_row(task)`` and ``task_from(row)``, the same for judgements and annotators. What JSON cannot hold (NaN, tuples inside ``meta``) is
not exact, and NaN is refused when the row is written.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_args

from keel.feedback.answers import FITS, answer_from, answer_row, check_answer
from keel.feedback.texts import RowError, by_bytes, candidate_from, candidate_row, get, only, optional, prompt_from, prompt_row, typed
from keel.types import Annotator, Judgement, Purpose, TakenBack, Task

SCHEMA = 1
PURPOSES: tuple[str, ...] = get_args(Purpose)
KINDS = ("person", "judge", "reward_model", "simulated")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_TASK, _JUDGEMENT, _ANNOTATOR = (frozenset(f.name for f in fields(kind)) | {"schema"} for kind in (Task, Judgement, Annotator))


def dumps(value: Any) -> str:
    """JSON with sorted names: equal values give equal text. Raises ValueError for NaN, TypeError for what JSON does not know."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """A hash of a JSON value, 32 hexadecimal digits."""
    return hashlib.sha256(dumps(value).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def utc(seconds: float) -> str:
    """Seconds since 1970 as ``2026-11-29T12:00:00.250Z``."""
    at = datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task_row(task: Task) -> dict[str, Any]:
    """The plain row of a task."""
    row: dict[str, Any] = {"schema": SCHEMA, "task_id": task.task_id, "prompt": prompt_row(task.prompt)}
    row["candidates"] = [candidate_row(c) for c in task.candidates]
    row |= {"kind": task.kind, "protocol": task.protocol, "guideline": task.guideline, "campaign": task.campaign}
    row["expected"] = None if task.expected is None else answer_row(task.expected)
    return row | {"source_id": task.source_id, "meta": dict(task.meta)}


def task_from(row: Any) -> Task:
    """The task of a row that `task_row` made; an empty ``task_id`` becomes the hash of all else. Raises RowError naming the field."""
    _begin(row, _TASK, "task")
    expected = row.get("expected")
    task = Task(
        task_id=optional(row, "task_id", str, ""),
        prompt=prompt_from(get(row, "prompt", dict), "prompt."),
        candidates=tuple(candidate_from(c, f"candidates.{i}") for i, c in enumerate(get(row, "candidates", list))),
        kind=get(row, "kind", str),
        protocol=get(row, "protocol", str),
        guideline=optional(row, "guideline", str, ""),
        campaign=optional(row, "campaign", str, ""),
        expected=None if expected is None else answer_from(expected, "expected"),
        source_id=optional(row, "source_id", str, ""),
        meta=optional(row, "meta", dict, {}),
    )
    check_task(task)
    return task if task.task_id else named(task)


def task_line(task: Task, role: str, priority: float) -> dict[str, Any]:
    """A task with what a campaign has beside it: whether it is work, and when it is its turn."""
    return {"task": task_row(task), "role": role, "priority": priority + 0.0}  # never -0.0


def named(task: Task) -> Task:
    """The task with the id that follows from its content."""
    return replace(task, task_id=digest(task_content(task)))


def task_content(task: Task) -> dict[str, Any]:
    """What makes a task this one, as a JSON value: what is asked, of which answers, for whom, what is known of it. Where its prompt, its
    answers and its images came from is no part of it: the same file at another place asks the same; images count by their bytes."""
    prompt = replace(task.prompt, messages=tuple(map(by_bytes, task.prompt.messages)), source_id="")
    candidates = tuple(replace(c, origin={}, turns=tuple(map(by_bytes, c.turns))) for c in task.candidates)
    return task_row(replace(task, task_id="", source_id="", prompt=prompt, candidates=candidates))


def check_task(task: Task) -> None:
    """Raises RowError naming what is impossible in a task."""
    if task.kind not in FITS:
        raise RowError("kind", f"must be one of {', '.join(FITS)}, is {task.kind!r}")
    if not task.protocol:
        raise RowError("protocol", "is empty: judgements of different protocols are not mixed")
    count = len(task.candidates)
    if (task.kind == "pairwise" and count != 2) or count < (2 if task.kind == "ranking" else 1):
        raise RowError("candidates", f"of a task of kind {task.kind} cannot be {count}")
    ids = [c.candidate_id for c in task.candidates]
    if len(set(ids)) < count:
        raise RowError("candidates", f"must have different ids: {', '.join(ids)}")
    if isinstance(task.expected, TakenBack):
        raise RowError("expected", "is no answer")
    if task.expected is not None:
        check_answer(task.expected, task.kind, [c.text for c in task.candidates], "expected")


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """The plain row of a judgement."""
    row: dict[str, Any] = {"schema": SCHEMA, **{name: getattr(judgement, name) for name in _JUDGEMENT - {"schema"}}}
    row["answer"], row["meta"] = answer_row(judgement.answer), dict(judgement.meta)
    return row | {"display_order": list(judgement.display_order)}


def judgement_from(row: Any) -> Judgement:
    """The judgement of a row that `judgement_row` made. Raises RowError naming the field; `check_judgement` holds it against its task."""
    _begin(row, _JUDGEMENT, "judgement")
    active = row.get("active_ms")
    judgement = Judgement(
        event_id=get(row, "event_id", str),
        task_id=get(row, "task_id", str),
        by=get(row, "by", str),
        purpose=get(row, "purpose", str),
        answer=answer_from(get(row, "answer", dict)),
        display_order=tuple(typed(i, int, "display_order") for i in get(row, "display_order", list)),
        protocol=get(row, "protocol", str),
        at=get(row, "at", str),
        repeat=optional(row, "repeat", int, 0),
        active_ms=None if active is None else typed(active, int, "active_ms"),
        reason=optional(row, "reason", str, ""),
        guideline=optional(row, "guideline", str, ""),
        replaces=optional(row, "replaces", str, ""),
        late=optional(row, "late", bool, False),
        source_id=optional(row, "source_id", str, ""),
        meta=optional(row, "meta", dict, {}),
    )
    _check_alone(judgement)
    return judgement


def check_judgement(judgement: Judgement, task: Task) -> None:
    """Raises RowError naming what is impossible in a judgement of this task: answer, places, order, protocol."""
    _check_alone(judgement)
    if judgement.task_id != task.task_id:
        raise RowError("task_id", f"is {judgement.task_id!r}, the task's is {task.task_id!r}")
    if judgement.protocol != task.protocol:
        raise RowError("protocol", f"is {judgement.protocol!r}, the task's is {task.protocol!r}")
    if sorted(judgement.display_order) != list(range(len(task.candidates))):
        raise RowError("display_order", f"must be a permutation of 0..{len(task.candidates) - 1}, is {list(judgement.display_order)}")
    check_answer(judgement.answer, task.kind, [c.text for c in task.candidates])


def annotator_row(annotator: Annotator) -> dict[str, Any]:
    """The plain row of an annotator."""
    row = {"schema": SCHEMA, "annotator_id": annotator.annotator_id, "kind": annotator.kind, "identity": annotator.identity}
    return row | {"meta": dict(annotator.meta)}


def annotator_from(row: Any) -> Annotator:
    """The annotator of a row that `annotator_row` made. Raises RowError naming the field."""
    _begin(row, _ANNOTATOR, "annotator")
    name, kind = get(row, "annotator_id", str), get(row, "kind", str)
    annotator = Annotator(name, kind, optional(row, "identity", str, ""), optional(row, "meta", dict, {}))
    check_annotator(annotator)
    return annotator


def check_annotator(annotator: Annotator) -> None:
    """Raises RowError for an annotator without a name or of an unknown kind."""
    if not annotator.annotator_id:
        raise RowError("annotator_id", "is empty")
    if annotator.kind not in KINDS:
        raise RowError("kind", f"must be one of {', '.join(KINDS)}, is {annotator.kind!r}")


def _check_alone(judgement: Judgement) -> None:
    for name in ("event_id", "task_id", "by", "protocol"):
        if not getattr(judgement, name):
            raise RowError(name, "is empty")
    if judgement.purpose not in PURPOSES:
        raise RowError("purpose", f"must be one of {', '.join(PURPOSES)}, is {judgement.purpose!r}")
    if not _TIME.fullmatch(judgement.at):
        raise RowError("at", f"must be a time in UTC like 2026-11-29T12:00:00Z, is {judgement.at!r}")
    if judgement.repeat < 0 or (judgement.active_ms is not None and judgement.active_ms < 0):
        raise RowError("repeat" if judgement.repeat < 0 else "active_ms", "must not be below 0")
    if isinstance(judgement.answer, TakenBack) and not judgement.replaces:
        raise RowError("replaces", "is empty: what is taken back must be named")
    if judgement.replaces == judgement.event_id:
        raise RowError("replaces", "names the event itself")


def _begin(row: Mapping[str, Any], names: frozenset[str], what: str) -> None:
    typed(row, dict, what)
    if row.get("schema", SCHEMA) != SCHEMA:
        raise RowError("schema", f"is {row['schema']!r}, this version of Keel reads {SCHEMA}")
    only(row, names)
