"""Rows of answers and truth: read whole, with ids that are checked. Nothing is dropped: a row that cannot be used stops the measure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.rows import RawRow, json_type, utf8
from keel.data.sources import read_source

SHOWN = 5


def read_rows(path: str) -> tuple[RawRow, ...]:
    """All rows of a file (JSONL, a JSON list ...). Raises DataError for the first row that cannot be read."""
    source = read_source(path)
    for bad in source.bad:
        more = f" (and {len(source.bad) - 1} more)" if len(source.bad) > 1 else ""
        raise DataError(f"{bad}{more}", "mend these rows or take them out: a measure of the rest would be of another set")
    return source.rows


def read_object(path: str) -> dict[str, Any]:
    """A file that is one JSON object. Raises DataError."""
    data = read_value(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: the file holds {json_type(data)}", "it must hold one JSON object")
    return data


def read_value(path: str) -> Any:
    """A file that is one JSON value. Raises DataError naming the line that is broken."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{path}: no such file", "give the path of a file")
    try:
        return json.loads(utf8(file.read_bytes(), file))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}", "mend the file at that line") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "see its permissions") from None


def id_of(row: RawRow, keys: Sequence[str]) -> str:
    """The row's id: the first of ``keys`` that it has, a number or a text. Raises DataError."""
    key = next((k for k in keys if row.values.get(k) is not None), None)
    if key is None:
        raise DataError(f"{row.place}: no id", f"give each row one of {', '.join(keys)}")
    value = row.values[key]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{row.place}: {key}: an id is a whole number or text, this is {json_type(value)}", "write it as 12 or as text")
    return str(value)


def text_of(row: RawRow, keys: Sequence[str]) -> str:
    """The text under the first of ``keys`` that the row has; null is the empty text. Raises DataError for a row without any."""
    key = next((k for k in keys if k in row.values), None)
    if key is None:
        raise DataError(f"{row.place}: none of the fields {', '.join(keys)}", f"give the row its text as {keys[0]}")
    value = row.values[key]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{row.place}: {key}: must be text, this is {json_type(value)}", "write it in quotes")
    return value or ""


def texts_of(row: RawRow, key: str) -> tuple[str, ...]:
    """The list of texts under ``key``; empty where there is none. Raises DataError."""
    value = row.values.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise DataError(f"{row.place}: {key}: must be a list of texts", f'write {key}: ["...", "..."]')
    return tuple(value)


def by_id(rows: Sequence[RawRow], keys: Sequence[str]) -> dict[str, RawRow]:
    """The rows by id, in their order. Raises DataError for an id that stands twice."""
    found: dict[str, RawRow] = {}
    for row in rows:
        name = id_of(row, keys)
        if name in found:
            raise DataError(f"{row.place}: the id {name} stands at {found[name].place} already", "each id once: take one of them out")
        found[name] = row
    return found


def missing(answers: Mapping[str, RawRow], asked: Mapping[str, Any], truth: str) -> list[str]:
    """Ids of ``asked`` without an answer. Raises DataError for answers to what was not asked."""
    unknown = [row for name, row in answers.items() if name not in asked]
    if unknown:
        names = ", ".join(next(n for n, r in answers.items() if r is row) for row in unknown[:SHOWN])
        count = f"{len(unknown)} ids" if len(unknown) > 1 else "the id"
        raise DataError(f"{unknown[0].place}: {count} not in {truth}: {names}", "answers and truth must be of the same set")
    return [name for name in asked if name not in answers]


def setting(value: str, name: str, what: str) -> str:
    """A setting that this measure needs. Raises DataError."""
    if not value:
        raise DataError(f"{name}: not given", f"{name}=FILE: {what}")
    return value
