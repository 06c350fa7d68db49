"""The items of campaigns: into the store and out of it. Functions of an open connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func, insert, select, update

from keel.core.errors import ConfigError, DataError
from keel.feedback import schema
from keel.feedback.answers import answer_from, answer_row, likeness
from keel.feedback.campaigns import Campaign, ConflictError, add_missing, chunks, get_campaign, touch
from keel.feedback.doubt import UNJUDGED
from keel.feedback.rows import check_task, digest, dumps, named, task_content
from keel.feedback.sql import run
from keel.feedback.texts import candidate_from, candidate_row, prompt_from, prompt_row
from keel.types import Task

Role = Literal["work", "gold", "training", "qualification"]
ROLES = ("work", "gold", "training", "qualification")


def add_tasks(c: Connection, campaign: str, tasks: Sequence[Task], role: Role, priority: float) -> tuple[str, ...]:
    """Add tasks to a campaign, in their order; returns their ids. A task that is there is left as it is.

    Raises DataError for a task that does not fit the campaign or has no expected answer where its role needs one, ConflictError for an id
    that stands for another task.
    """
    found = get_campaign(c, campaign)
    if role not in ROLES:
        raise ConfigError(f"role {role!r} is unknown", f"known: {', '.join(ROLES)}")
    position = c.execute(select(func.max(schema.task.c.position)).where(schema.task.c.campaign == campaign)).scalar() or 0
    ids: list[str] = []
    for task in tasks:
        task = replace(task, campaign=campaign, guideline=task.guideline or found.guideline)
        task = task if task.task_id else named(task)
        check_task(task)
        if (task.kind, task.protocol) != (found.kind, found.protocol):
            what = f"task {task.task_id} is {task.kind} by {task.protocol}, the campaign {campaign} {found.kind} by {found.protocol}"
            raise DataError(what, "judgements of different protocols are not mixed: make another campaign")
        if role in ("gold", "training", "qualification") and task.expected is None:
            raise DataError(f"task {task.task_id}: a task for {role} needs its expected answer")
        before = c.execute(select(schema.task).where(schema.task.c.task_id == task.task_id)).one_or_none()
        if before is None:
            position += 1
            ease = UNJUDGED if role == "work" and found.settings.judges_advise else 0.0
            _insert_task(c, task, role, found.wanted, priority, position, ease)
        else:
            _check_same(load_tasks(c, [task.task_id])[task.task_id], task, before.role, role)
        ids.append(task.task_id)
    touch(c, campaign)
    return tuple(ids)


def _check_same(there: Task, task: Task, role: str, wanted_role: str) -> None:
    """Raises ConflictError unless a task that is there asks the same; where its parts came from may differ."""
    if there.campaign != task.campaign:
        what = f"task {task.task_id} belongs to campaign {there.campaign}"
        raise ConflictError(what, f"--campaign {there.campaign} adds to it; another campaign needs tasks of its own ids")
    if role != wanted_role:
        raise ConflictError(f"task {task.task_id} is there with the role {role}, not {wanted_role}", "give it another id, or none")
    if task_content(there) != task_content(task):
        raise ConflictError(f"task {task.task_id} is there with other content", "give it another id, or none")


def set_priority(c: Connection, task_ids: Sequence[str], priority: float) -> None:
    """Tasks of a higher priority are given out first; 0 is the usual."""
    t = schema.task
    c.execute(update(t).where(t.c.task_id.in_(task_ids)).values(urgency=-priority))
    for name in c.execute(select(t.c.campaign).where(t.c.task_id.in_(task_ids)).distinct()).scalars().all():
        touch(c, name)


_FEW = 20  # so many rows are asked for one by one: their statements are compiled once
_TASK = select(schema.task).where(schema.task.c.task_id == bindparam("key"))
_BODY = {id(t): select(t.c.hash, t.c.body).where(t.c.hash == bindparam("key")) for t in (schema.prompt, schema.candidate)}


def load_tasks(c: Connection, task_ids: Sequence[str]) -> dict[str, Task]:
    """Tasks by id; those that are not there are left out."""
    if len(task_ids) <= _FEW:
        rows = [row for i in task_ids if (row := run(c, _TASK, key=i).one_or_none()) is not None]
    else:
        rows = [r for part in chunks(task_ids) for r in c.execute(select(schema.task).where(schema.task.c.task_id.in_(part)))]
    names = {r.task_id: json.loads(r.candidates) for r in rows}
    prompts = _bodies(c, schema.prompt, {r.prompt for r in rows})
    candidates = _bodies(c, schema.candidate, {h for found in names.values() for h in found})
    return {
        r.task_id: Task(
            task_id=r.task_id,
            prompt=prompt_from(prompts[r.prompt]),
            candidates=tuple(candidate_from(candidates[h], "candidate") for h in names[r.task_id]),
            kind=r.kind,
            protocol=r.protocol,
            guideline=r.guideline,
            campaign=r.campaign,
            expected=answer_from(json.loads(r.expected)) if r.expected else None,
            source_id=r.source_id,
            meta=json.loads(r.meta),
        )
        for r in rows
    }


def is_right(c: Connection, campaign: Campaign, task_id: str, body: str) -> bool:
    """Is the stored judgement of a known item near enough to the expected answer?"""
    expected = c.execute(select(schema.task.c.expected).where(schema.task.c.task_id == task_id)).scalar_one()
    said, wanted = answer_from(json.loads(body)["answer"]), answer_from(json.loads(expected))
    return likeness(said, wanted, campaign.settings.scale) >= campaign.settings.right_at


def _insert_task(c: Connection, task: Task, role: str, wanted: int, priority: float, position: int, ease: float) -> None:
    asked, shown = prompt_row(task.prompt), [candidate_row(x) for x in task.candidates]
    add_missing(c, schema.prompt, [{"hash": digest(asked), "body": dumps(asked)}])
    add_missing(c, schema.candidate, [{"hash": digest(x), "body": dumps(x)} for x in shown])
    row: dict[str, Any] = {n: getattr(task, n) for n in ("task_id", "campaign", "kind", "protocol", "guideline", "source_id")}
    row |= {"role": role, "prompt": digest(asked), "candidates": dumps([digest(x) for x in shown]), "meta": dumps(dict(task.meta))}
    row |= {"expected": "" if task.expected is None else dumps(answer_row(task.expected)), "wanted": wanted, "urgency": -priority}
    c.execute(
        insert(schema.task), row | {"position": position, "open": 1, "done": 0, "leased": 0, "dispute": 0, "ease": ease, "by_judge": 0}
    )


def _bodies(c: Connection, table: Any, hashes: set[str]) -> dict[str, Any]:
    if len(hashes) <= _FEW:
        return {h: json.loads(run(c, _BODY[id(table)], key=h).one().body) for h in hashes}
    parts = chunks(sorted(hashes))
    return {r.hash: json.loads(r.body) for part in parts for r in c.execute(select(table).where(table.c.hash.in_(part)))}
