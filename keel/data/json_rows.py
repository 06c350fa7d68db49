"""Rows of JSON: one object a line, a list of objects, or either under the other's name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.json_lines import lines_of
from keel.data.image_sets import coco_rows, is_coco
from keel.data.rows import BadRow, Rows, TwiceError, escapes, json_type, parse_json, row, utf8
from keel.data.triples import is_triples, triple_rows

_MARK = b"\xef\xbb\xbf"  # a byte order mark; files that were joined have one inside
_OF_ONE_ROW = ("messages", "conversations", "tools", "functions", "candidates", "prompt", "chosen", "rejected", "completion", "history")


def read_jsonl(content: bytes, file: Path) -> Rows:
    """Rows of one JSON value a line. A file that is one JSON value as a whole (a list, an object over several lines) is read as that."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        utf8(content, file)  # says so
    end = b"\n" if b"\n" in content else b"\r"
    lines = content.split(end)
    if _is_one_value(lines, content):
        yield from read_json(content, file)
        return
    start = 0
    for number, line in enumerate(lines, start=1):
        here, start = start, start + len(line) + 1
        line = line.removeprefix(_MARK)
        if line.strip():
            yield _read_line(line, file, number, here)


def _is_one_value(lines: Sequence[bytes], content: bytes) -> bool:
    """Is the file no lines of objects but one JSON value? Told by its first line, which is none by itself, or a list."""
    first = next((line for line in lines if line.strip()), b"").removeprefix(_MARK).strip()
    if first[:1] not in (b"[", b"{") or (first[:1] == b"{" and first[-1:] == b"}"):
        return False
    try:
        json.loads(content.decode("utf-8-sig"))
    except ValueError:
        return False
    return True


def _read_line(line: bytes, file: Path, number: int, start: int) -> Any:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(str(file), number, "", f"not UTF-8 at byte {start + error.start} of the file (0x{line[error.start]:02x})")
    try:
        values = parse_json(text)
    except TwiceError as error:
        return BadRow(str(file), number, "", error.msg, text[:2000])
    except json.JSONDecodeError as error:
        return BadRow(str(file), number, "", f"broken JSON at column {error.colno}: {error.msg}", text[:2000])
    return row(values, file, number, escapes(text))


def read_json(content: bytes, file: Path) -> Rows:
    """Rows of a list of objects, of the one such list in an object, of one object, of COCO's files (``image_sets``) or of triples. Raises
    DataError for a file that is broken or written by columns."""
    text = utf8(content, file)
    if not text.strip():
        return
    try:
        data = parse_json(text)
    except TwiceError as error:
        raise DataError(f"{file}: {error.msg}", "one of its two values would be lost: rename it or take it out") from None
    except json.JSONDecodeError as error:
        lines = [line for line in lines_of(text) if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines[:2]):  # JSON lines under the wrong name
            yield from read_jsonl(content, file)
            return
        raise DataError(f"{file}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}", "mend the file at that line") from None
    if is_coco(data):
        yield from coco_rows(data, file, escapes(text))
        return
    if is_triples(data):
        yield from triple_rows(data, file, escapes(text))
        return
    if isinstance(data, dict):
        data = _rows_of(data, file)
    if not isinstance(data, list):
        raise DataError(f"{file}: the file holds {json_type(data)}", "it must hold a list of objects, or one object a line (JSONL)")
    halves = escapes(text)
    for number, values in enumerate(data, start=1):  # a JSON array has no lines of its own: rows are counted
        yield row(values, file, number, halves)


def _rows_of(data: Mapping[str, Any], file: Path) -> list[Any]:
    """The rows of a file that holds one object. Raises DataError where it holds columns: which values belong together is then a guess."""
    values = list(data.values())
    counted = [isinstance(v, dict) and bool(v) and all(k.isdigit() for k in v) for v in values]
    texts = [isinstance(v, list) and len(v) > 0 and all(isinstance(x, str) for x in v) for v in values]
    if len(values) > 1 and (all(counted) or (all(texts) and len({len(v) for v in values}) == 1)):
        hint = "write one object a row: with pandas, to_json(orient='records', lines=True)"
        raise DataError(f"{file}: the file holds columns ({', '.join(data)}), not rows", hint)
    if any(name in data for name in _OF_ONE_ROW):
        return [data]
    lists = {k: v for k, v in data.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)}
    if len(lists) > 1 and len(lists) == len(data):
        hint = "put each into a file of its own, or give the list that is meant"
        raise DataError(f"{file}: the file holds several lists of rows ({', '.join(lists)})", hint)
    return next(iter(lists.values())) if len(lists) == 1 else [data]
