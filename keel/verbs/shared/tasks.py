"""Files of tasks that stages hand on to one another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from keel.core.errors import DataError
from keel.feedback.exchange import keel_jsonl
from keel.feedback.rows import task_from
from keel.feedback.texts import RowError
from keel.types import Task


def read_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a file: rows of tasks, or lines of Keel's own feedback. Raises DataError naming file, line and field, and for tasks
    that are not pairs of one protocol."""
    try:
        lines = [(i, line) for i, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "tasks: a file that `keel collect` or the stage `mine` wrote") from None
    if lines and lines[0][1].lstrip().startswith(('{"campaign"', '{"task":', '{"annotator"', '{"guideline"')):
        found = keel_jsonl.read(path)
        lost = [x for x in found.left_out if not x.reason.startswith("a row must be one of")]  # a campaign's line is the store's
        if lost:
            raise DataError(f"{lost[0].source_id}: {lost[0].reason}", "correct the row or delete it")
        tasks = found.tasks
    else:
        tasks = tuple(_task(f"{path}:{i}", line) for i, line in lines)
    if not tasks:
        raise DataError(f"{path}: holds no task")
    first = tasks[0]
    for task in tasks:
        if task.kind != "pairwise" or task.protocol != first.protocol:
            what = f"{path}: task {task.task_id} is {task.kind} by {task.protocol}"
            raise DataError(what, f"this stage takes pairs of one protocol (task: {{kind: pairwise}} in `keel collect`; {first.protocol})")
    return tuple(replace(t, campaign="") for t in {t.task_id: t for t in tasks}.values())


def _task(where: str, line: str) -> Task:
    try:
        return task_from(json.loads(line))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is no JSON: {error.msg}", "one task a line, as JSON") from None
    except RowError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from None
