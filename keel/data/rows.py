"""One row as it stands in a file, good or bad, and the values that JSON can hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import DataError

_LONGEST_PATH = 4096  # characters; Linux allows no more
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file. ``folder`` is where relative image paths start: absolute, so that records may be
    written elsewhere."""

    values: Mapping[str, Any]
    file: str
    line: int
    folder: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is, which field, and why. ``values`` is what could be read of it."""

    file: str
    line: int
    field: str
    reason: str
    values: Mapping[str, Any] | str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: " + (f"{self.field}: " if self.field else "") + self.reason


def without_pictures(values: Any, name: str = "") -> Any:
    """A row's values for people to read: images' bytes, and their base64 under ``image`` or ``images``, as their size."""
    if isinstance(values, bytes):
        return f"({len(values)} bytes)"
    if isinstance(values, str):
        return values if name not in ("image", "images", "bytes", "url") or len(values) <= _LONGEST_PATH else f"({len(values)} characters)"
    if isinstance(values, Mapping):
        return {k: without_pictures(v, str(k)) for k, v in values.items()}
    return [without_pictures(v, name) for v in values] if isinstance(values, list | tuple) else values


Rows = Iterator[RawRow | BadRow]


class TwiceError(json.JSONDecodeError):
    """A JSON object has one name twice: one of the two values would be lost."""


def parse_json(text: str) -> Any:
    """A JSON value. Raises JSONDecodeError, also for what Python's parser refuses in other ways, and TwiceError."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("lists or objects are nested too deep", text, 0) from None
    except ValueError:  # Python's own limit of 4,300 digits
        raise json.JSONDecodeError("a number has too many digits", text, 0) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise TwiceError(f"the name {twice!r} stands twice in one object", "", 0)
    return found


def row(values: Any, file: Path, number: int, escapes: bool) -> RawRow | BadRow:
    """A parsed value as a row. Half of a character is refused, no tokenizer reads it; only ``escapes`` in the file can have made one."""
    if not isinstance(values, dict):
        return BadRow(str(file), number, "", f"a row must be a JSON object, this is {json_type(values)}", str(values)[:2000])
    if escapes and _HALF.search(json.dumps(values, ensure_ascii=False)):
        return BadRow(str(file), number, "", "half of a character: \\ud800 to \\udfff stand in pairs only", json.dumps(values)[:2000])
    return RawRow(values, str(file), number, str(file.parent.absolute()))


def escapes(text: str) -> bool:
    """Does JSON text hold escapes that stand for half of a character each?"""
    return "\\ud" in text or "\\uD" in text


def utf8(content: bytes, file: Path) -> str:
    """Text of a whole file, without a byte order mark. Raises DataError naming the place that is not UTF-8."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file}: this is UTF-16, not UTF-8", f"convert the file: iconv -f utf-16 -t utf-8 {file.name}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}:{line}: not UTF-8 at byte {error.start} (0x{content[error.start]:02x})",
            f"convert the file, e.g. iconv -f latin1 -t utf-8 {file.name}",
        ) from None


def json_type(value: Any) -> str:
    """What JSON calls this value, for messages."""
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), type(value).__name__)
