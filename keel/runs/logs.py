"""Files of JSON lines: metrics, events, samples. Each line is valid JSON by itself; a line torn by a crash is cut off, never read.

JSON knows no NaN and no infinities: they are written as the strings "NaN", "Infinity" and "-Infinity", which ``float()`` reads back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from keel.runs.durable import write_atomic

Row = dict[str, Any]


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numbers of torch and numpy as Python's, non-finite ones as strings, paths and the rest as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in cast("Iterable[Any]", value)]
    to_python: Callable[[], Any] | None = getattr(value, "tolist", None)  # a tensor or numpy value
    return plain(to_python()) if to_python is not None else str(value)


def json_line(row: Mapping[str, Any]) -> bytes:
    """One row as a line of valid JSON, newline included."""
    return (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file. It is opened anew each time, so that cutting it in between is safe. Where they cannot all be written (OSError)
    none is: half a row would spoil the next one."""
    lines = b"".join(json_line(row) for row in rows)
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(lines)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise


def read(path: Path) -> list[Row]:
    """The rows of a file; nothing when it is not there. A line that is no JSON object (torn by a crash) is left out."""
    if not path.is_file():
        return []
    rows: list[Row] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(cast("Row", row))
    return rows


def keep_rows(path: Path, keep: Callable[[Row], bool]) -> None:
    """Rewrite a file with the rows that ``keep`` wants, as ``change_rows`` does."""
    change_rows(path, lambda row: row if keep(row) else None)


def change_rows(path: Path, change: Callable[[Row], Row | None]) -> None:
    """Rewrite a file with what ``change`` makes of its rows (None: it goes), atomically, torn lines left out; untouched when nothing
    changes."""
    if not path.is_file():
        return
    kept = b"".join(json_line(row) for row in map(change, read(path)) if row is not None)
    if kept != path.read_bytes():
        write_atomic(path, kept)
