"""Which of Keel's own rows of feedback a line is, told by its fields and never by how it is spelt. No torch, no database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.json_lines import lines_of

KINDS: tuple[str, ...] = ("campaign", "guideline", "annotator", "task", "judgement", "unjudged", "retraction")
_BESIDE = {"task": frozenset({"role", "priority"})}  # fields that may stand beside the record itself
_TASK = frozenset({"prompt", "candidates", "kind", "protocol"})
_COMPARISON = frozenset({"record_id", "candidates", "outcome"})


def kind_of(row: Any) -> str:
    """``campaign``, ``task`` ... for ``{"task": {...}}`` and for a task's bare row, ``comparison``; empty for any other row."""
    if not isinstance(row, Mapping):
        return ""
    wrapped = [k for k in KINDS if isinstance(row.get(k), dict) and set(row) <= {k, *_BESIDE.get(k, ())}]
    if wrapped:
        return wrapped[0]
    return "task" if set(row) >= _TASK else "comparison" if set(row) >= _COMPARISON else ""


def body_of(row: Mapping[str, Any], kind: str) -> Any:
    """The record of a row of that kind, without what stands beside it."""
    return row[kind] if isinstance(row.get(kind), dict) and set(row) <= {kind, *_BESIDE.get(kind, ())} else row


def is_own(path: Path) -> bool:
    """Does a file begin with one of Keel's own rows?"""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((json.loads(line) for line in file if line.strip()), None)
    except (OSError, ValueError):
        return False
    return kind_of(first) != ""


def read_lines(path: Path) -> list[tuple[int, str, Any]]:
    """(line, kind, row) of each row. Raises DataError naming file and line for one that is no row of Keel's, or where comparisons and other
    rows are mixed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "give a JSON Lines file in UTF-8") from None
    found: list[tuple[int, str, Any]] = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: broken JSON: {error.msg}", "correct the line or delete it") from None
        kind = kind_of(row)
        if not kind:
            raise DataError(f"{path}:{number}: line must hold one of {', '.join(KINDS)}, or a comparison", "correct the line or delete it")
        if found and (kind == "comparison") != (found[0][1] == "comparison"):
            raise DataError(f"{path}:{number}: is a {kind}, the lines before are {found[0][1]}s", "put them into files of their own")
        found.append((number, kind, row))
    return found
