"""Files of JSON lines: metrics, events, samples. Each line is valid JSON by itself; a line torn by a crash is cut off, never read.

JSON knows no NaN and no infinities: they are written as the strings "NaN", "Infinity" and "-Infinity", which ``float()`` reads back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from keel.runs.durable import cut_atomic, write_atomic

Row = dict[str, Any]
CHUNK = 1 << 16  # bytes that are read at once from the end of a file
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


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


def parse(line: bytes) -> Row | None:
    """The row of a line; None for one that is no JSON object (torn by a crash)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Row", row) if isinstance(row, dict) else None


def number(value: Any) -> float | None:
    """The number that a value of a row is; None for what is none. Whole numbers beyond the floating ones are infinite."""
    if isinstance(value, str):
        return float(value) if value in _NOT_FINITE else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file, one after the other; none when it is not there. A line that is no JSON object is left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if (row := parse(line)) is not None:
                yield row


def read(path: Path) -> list[Row]:
    """All rows of a file, as ``rows_of`` gives them."""
    return list(rows_of(path))


def lines_backward(path: Path) -> Iterator[tuple[int, bytes]]:
    """(where it begins, the line with its newline), the last line first. Reads no more of the file than is asked for."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        held = b""  # of a line whose beginning is not read yet
        while start > 0:
            size = min(CHUNK, start)
            start -= size
            file.seek(start)
            held = file.read(size) + held
            end = len(held)
            while end > 0 and (cut := held.rfind(b"\n", 0, end - 1)) >= 0:
                yield start + cut + 1, held[cut + 1 : end]
                end = cut + 1
            held = held[:end]
        if held:
            yield 0, held


def last_row(path: Path) -> Row:
    """The last row of a file, read from its end; an empty one where there is none."""
    for _, line in lines_backward(path):
        if (row := parse(line)) is not None:
            return row
    return {}


def rows_at_end(path: Path, belongs: Callable[[Row], bool]) -> list[Row]:
    """The rows behind the last one that does not belong, in their order. Read from the end."""
    found: list[Row] = []
    for _, line in lines_backward(path):
        row = parse(line)
        if row is not None and not belongs(row):
            break
        found += [row] if row is not None else []
    return found[::-1]


def cut_end(path: Path, goes: Callable[[Row], bool]) -> None:
    """Take the rows off the end that ``goes`` names, and torn lines with them, up to the last row that stays. Atomic, and the rows that
    stay are not read; untouched where nothing goes."""
    end = 0
    for start, line in lines_backward(path):
        row = parse(line)
        if row is not None and line.endswith(b"\n") and not goes(row):
            end = start + len(line)
            break
    if path.is_file() and end < path.stat().st_size:
        cut_atomic(path, end)


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
