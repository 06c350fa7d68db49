"""Files of tasks that stages hand on to one another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.identity import PromptIds
from keel.feedback.own_rows import body_of, read_lines
from keel.feedback.rows import task_from
from keel.feedback.texts import RowError, optional
from keel.types import Task


def read_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a file: rows of tasks, or lines of Keel's own feedback. Raises DataError naming file, line and field, and for tasks
    that are not pairs of one protocol, or ask two prompts under one id."""
    placed = [(f"{path}:{line}", row, body_of(row, kind)) for line, kind, row in read_lines(path) if kind == "task"]
    tasks, ids = tuple(_task(*one) for one in placed), PromptIds()
    for task, (where, _, _) in zip(tasks, placed, strict=True):
        ids.check(task.prompt, where)
    if not tasks:
        raise DataError(f"{path}: holds no task")
    first = tasks[0]
    for task in tasks:
        if task.kind != "pairwise" or task.protocol != first.protocol:
            what = f"{path}: task {task.task_id} is {task.kind} by {task.protocol}"
            raise DataError(what, f"this stage takes pairs of one protocol (task: {{kind: pairwise}} in `keel collect`; {first.protocol})")
    return tuple(replace(t, campaign="") for t in {t.task_id: t for t in tasks}.values())


def _task(where: str, row: Any, body: Any) -> Task:
    """The task of a row, with the role that stands beside it in its ``meta``, where the row's own words do not say it."""
    try:
        task, role = task_from(body), optional(row, "role", str, "") if body is not row else ""
        own = task.meta.get("role", "work" if task.expected is None else "gold")
        return replace(task, meta={**task.meta, "role": role}) if role and role != own else task
    except RowError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from None
