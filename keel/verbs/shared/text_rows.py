"""Files of texts that are looked at and not trained on: prompts of a server, of today and of before."""

from __future__ import annotations

import json
from pathlib import Path

from keel.core.errors import DataError
from keel.core.json_lines import lines_of
from keel.watch.token_drift import LEAST

_FIELDS = ("text", "prompt", "messages")


def texts_of(path: Path) -> list[str]:
    """The texts of a file of rows with ``text``, ``prompt`` or ``messages`` (the last user turn). Raises DataError naming file and line."""
    found: list[str] = []
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "a JSON Lines file in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_text(f"{path}:{number}", line))
    if len(found) < LEAST:
        raise DataError(f"{path}: holds {len(found)} texts", f"at least {LEAST} are needed to compare with")
    return found


def _text(where: str, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON: {error}", "one row a line") from None
    name = next((n for n in _FIELDS if isinstance(row, dict) and n in row), None)
    if name is None:
        raise DataError(f"{where}: has none of {', '.join(_FIELDS)}", "name the column so")
    value = row[name]
    if isinstance(value, list):
        turns = [m for m in value if isinstance(m, dict) and m.get("role") == "user" and isinstance(m.get("content"), str)]
        value = turns[-1]["content"] if turns else None
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} holds no text", "a text, or messages with a user turn")
    return value
