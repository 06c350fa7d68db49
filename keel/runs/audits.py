"""Tasks for people about answers of a run: ``audit/tasks-<step>.jsonl``, a file a step. They are those of the path that stands; what an
emergency took back is ``undone-<rollback>-tasks-<step>.jsonl``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keel.runs import logs
from keel.runs.durable import write_atomic

FOLDER = "audit"
_NAME = re.compile(r"tasks-(\d+)\.jsonl")


def standing(run: Path) -> list[tuple[int, Path]]:
    """(step, file) of the path that stands, by step."""
    found = ((_NAME.fullmatch(path.name), path) for path in (run / FOLDER).glob("*.jsonl"))
    return sorted((int(match[1]), path) for match, path in found if match)


def rows(run: Path, before: int | None = None) -> list[dict[str, Any]]:
    """The tasks of steps before ``before`` (None: of all) on the path that stands."""
    return [row for step, path in standing(run) if before is None or step < before for row in logs.rows_of(path)]


def write(run: Path, step: int, tasks: Iterable[Mapping[str, Any]]) -> None:
    """The tasks of a step, in place of those that are there of it."""
    (run / FOLDER).mkdir(exist_ok=True)
    write_atomic(run / FOLDER / f"tasks-{step:09d}.jsonl", b"".join(map(logs.json_line, tasks)))


def cut(run: Path, step: int) -> None:
    """The run does the steps after ``step`` again: their tasks go."""
    for at, path in standing(run):
        if at > step:
            path.unlink(missing_ok=True)


def give_up(run: Path, step: int, number: int) -> None:
    """An emergency takes back the steps after ``step``: their tasks stay, with its number. What was rewarded then is worth a look."""
    for at, path in standing(run):
        if at > step:
            path.replace(path.with_name(f"undone-{number:02d}-{path.name}"))
