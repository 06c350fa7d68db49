"""What each held-out prompt got at an evaluation: ``evaluations/<side>-<step>.jsonl``, a row a prompt. With it two runs can be compared
prompt by prompt. A run that does steps again, or gives them up, has those of the path that stands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keel.runs import logs
from keel.runs.durable import write_atomic

FOLDER = "evaluations"
_NAME = re.compile(r"([a-z]+)-(\d+)\.jsonl")


def write(run: Path, side: str, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """The rows of an evaluation, in place of those that are there of it: ``prompt_id``, ``answers`` (how many were judged), ``reward`` and
    ``parts`` (means over them)."""
    (run / FOLDER).mkdir(exist_ok=True)
    write_atomic(run / FOLDER / f"{side}-{step:09d}.jsonl", b"".join(map(logs.json_line, rows)))


def read(run: Path, side: str, step: int) -> dict[str, dict[str, float]]:
    """By prompt: what it got, by a metric's name without its side (``reward``, ``rewards/NAME/mean``), as far as it was judged. Empty where
    nothing was kept."""
    path = run / FOLDER / f"{side}-{step:09d}.jsonl"
    found: dict[str, dict[str, float]] = {}
    for row in logs.rows_of(path) if path.is_file() else ():
        parts: Mapping[str, Any] = row["parts"]
        told = {"reward": row["reward"], **{f"rewards/{name}/mean": value for name, value in parts.items()}}
        found[row["prompt_id"]] = {name: n for name, value in told.items() if (n := logs.number(value)) is not None and math.isfinite(n)}
    return found


def cut(run: Path, step: int) -> None:
    """The run does the steps after ``step`` again: what they were found to be goes."""
    for path in (run / FOLDER).glob("*.jsonl"):
        match = _NAME.fullmatch(path.name)
        if match and int(match[2]) > step:
            path.unlink(missing_ok=True)
