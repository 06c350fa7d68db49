"""The preference store: one JSON object a line, only ever appended to, read back exactly as written; and the rows of pairs made of it.

The rows are those of the data layouts ``comparison`` and ``preference``, with what an exact copy needs beside them; a comparison's also
have ``schema``, the version of the format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.runs.durable import DISK
from keel.types import Candidate, Comparison, ImagePart, Message, Pair, Prompt, TextPart

SCHEMA = 1
_OUTCOMES = ("first", "second", "tie")


class _FieldError(Exception):
    """What is wrong with a field of a row; ``read`` adds file and line."""


def append(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Append records and sync them to the disk; the file and its folder are made when missing.

    Raises ValueError or TypeError when a record holds what JSON cannot (NaN, tensors), before anything is written, and DataError when the
    file's last line is cut off.
    """
    lines = [json.dumps(to_row(c), ensure_ascii=False, allow_nan=False) + "\n" for c in comparisons]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                raise DataError(
                    f"{path}: the last line has no end: an interrupted write?", "delete the last line, or end it with a line break"
                )
        file.write("".join(lines).encode("utf-8"))
    DISK.sync_file(path)
    DISK.sync_dir(path.parent)  # a new file's name survives a power loss only then


def read(path: Path) -> tuple[Comparison, ...]:
    """All records in order. A record that stands twice (a stage was started again) is taken once.

    Raises DataError naming the line and the field: broken JSON, another schema, a missing or impossible value, one id with two contents.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such preference store", "run the stage that collects comparisons first, or give another path"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "a preference store is UTF-8 text, one JSON object a line") from None
    found: dict[str, Comparison] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = from_row(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: broken JSON: {error.msg}", "delete the line if a write was interrupted there") from None
        except _FieldError as error:
            raise DataError(f"{path}:{number}: {error}", "correct the row or delete it") from None
        if found.setdefault(record.record_id, record) != record:
            raise DataError(
                f"{path}:{number}: record_id {record.record_id!r} stands twice with different content", "delete one of the rows"
            )
    return tuple(found.values())


def to_row(comparison: Comparison) -> dict[str, Any]:
    """The plain row of a record."""
    c = comparison
    row: dict[str, Any] = {"schema": SCHEMA, "record_id": c.record_id, **prompt_row(c.prompt)}
    row["candidates"] = [{"candidate_id": x.candidate_id, "text": x.text, "origin": dict(x.origin)} for x in c.candidates]
    row |= {"outcome": c.outcome, "strength": c.strength, "annotator_id": c.annotator_id, "protocol": c.protocol}
    return row | {"display_order": list(c.display_order), "source_id": c.source_id}


def pair_row(pair: Pair) -> dict[str, Any]:
    """The plain row of a pair: layout ``preference``, read back equal."""
    row = {"record_id": pair.record_id, **prompt_row(pair.prompt)}
    row |= {"chosen": [_message_row(m) for m in pair.chosen], "rejected": [_message_row(m) for m in pair.rejected]}
    row |= {"label": pair.label, "margin": pair.margin, "weight": pair.weight}
    return row | {"tie": pair.tie} if pair.tie else row


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """The columns of a prompt: text or messages (images in their places), tools, id, where it came from, meta."""
    said = prompt.text if prompt.text is not None else [_message_row(m) for m in prompt.messages]
    tools = {"tools": [dict(t) for t in prompt.tools]} if prompt.tools else {}
    return {"prompt_id": prompt.prompt_id, "prompt": said, **tools, "prompt_source_id": prompt.source_id, "meta": dict(prompt.meta)}


def from_row(row: Any) -> Comparison:
    """The record of a row that ``to_row`` made. Raises an error that names the field otherwise."""
    if not isinstance(row, dict):
        raise _FieldError(f"a row must be a JSON object, this is {type(row).__name__}")
    if row.get("schema") != SCHEMA:
        raise _FieldError(f"schema is {row.get('schema')!r}, this version of Keel reads schema {SCHEMA}")
    candidates = _get(row, "candidates", list)
    if len(candidates) != 2 or not all(isinstance(c, dict) for c in candidates):
        raise _FieldError("candidates must be two objects with candidate_id, text and origin")
    first, second = (Candidate(_get(c, "candidate_id", str), _get(c, "text", str), _get(c, "origin", dict)) for c in candidates)
    if first.candidate_id == second.candidate_id:
        raise _FieldError(f"both candidates have the id {first.candidate_id!r}")
    outcome, strength, order = _get(row, "outcome", str), _get(row, "strength", (int, float)), _get(row, "display_order", list)
    if outcome not in _OUTCOMES:
        raise _FieldError(f"outcome must be one of {', '.join(_OUTCOMES)}, is {outcome!r}")
    if isinstance(strength, bool) or not 0.0 <= strength <= 1.0:
        raise _FieldError(f"strength must be between 0 and 1, is {strength}")
    if order not in ([0, 1], [1, 0]):
        raise _FieldError(f"display_order must be [0, 1] or [1, 0], is {order}")
    return Comparison(
        record_id=_get(row, "record_id", str),
        prompt=_prompt(row),
        candidates=(first, second),
        outcome=outcome,  # type: ignore[arg-type]
        strength=strength,
        annotator_id=_get(row, "annotator_id", str),
        protocol=_get(row, "protocol", str),
        display_order=(order[0], order[1]),
        source_id=_get(row, "source_id", str),
    )


def _prompt(row: Mapping[str, Any]) -> Prompt:
    said = _get(row, "prompt", (str, list))
    tools = row.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise _FieldError("tools must be a list of objects")
    return Prompt(
        prompt_id=_get(row, "prompt_id", str),
        messages=() if isinstance(said, str) else tuple(_message(m) for m in said),
        text=said if isinstance(said, str) else None,
        tools=tuple(tools),
        source_id=_get(row, "prompt_source_id", str),
        meta=_get(row, "meta", dict),
    )


def _message_row(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        content = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image", "image": p.source} for p in content]
    row = {"role": message.role, "content": content, **({} if message.trained else {"weight": 0})}
    return row | {"extra": dict(message.extra)} if message.extra else row


def _message(row: Any) -> Message:
    if not isinstance(row, dict):
        raise _FieldError("each message of prompt must be an object with role and content")
    content = _get(row, "content", (str, list))
    extra = _get(row, "extra", dict) if "extra" in row else {}
    if isinstance(content, str):
        return Message(_get(row, "role", str), content, extra)
    parts: list[TextPart | ImagePart] = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in ("text", "image"):
            raise _FieldError(f"unknown content block of type {kind!r}; known: text, image")
        parts.append(TextPart(_get(block, "text", str)) if kind == "text" else ImagePart(_get(block, "image", str)))
    return Message(_get(row, "role", str), tuple(parts), extra)


def _get(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    if name not in row:
        raise _FieldError(f"{name} is missing (the row has: {', '.join(row)})")
    if not isinstance(row[name], kind):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise _FieldError(f"{name} must be {wanted}, is {type(row[name]).__name__}")
    return row[name]
