"""The preference store: one JSON object a line, only ever appended to, read back exactly as written; and the rows of pairs made of it.

The rows are those of the data layouts ``comparison`` and ``preference``, with what an exact copy needs beside them; a comparison's also
have ``schema``, the version of the format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.json_lines import lines_of
from keel.feedback.texts import RowError, candidate_from, candidate_row, get, message_row, prompt_from, prompt_row
from keel.runs.disk import DISK
from keel.types import Comparison, Pair

SCHEMA = 1
_OUTCOMES = ("first", "second", "tie")


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
        lines = lines_of(path.read_text(encoding="utf-8"))
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
        except RowError as error:
            raise DataError(f"{path}:{number}: {error.message}", "correct the row or delete it") from None
        if found.setdefault(record.record_id, record) != record:
            raise DataError(
                f"{path}:{number}: record_id {record.record_id!r} stands twice with different content", "delete one of the rows"
            )
    return tuple(found.values())


def to_row(comparison: Comparison) -> dict[str, Any]:
    """The plain row of a record."""
    c = comparison
    row: dict[str, Any] = {"schema": SCHEMA, "record_id": c.record_id, **prompt_row(c.prompt)}
    row["candidates"] = [candidate_row(x) for x in c.candidates]
    row |= {"outcome": c.outcome, "strength": c.strength, "annotator_id": c.annotator_id, "protocol": c.protocol}
    return row | {"display_order": list(c.display_order), "source_id": c.source_id}


def pair_row(pair: Pair) -> dict[str, Any]:
    """The plain row of a pair: layout ``preference``, read back equal."""
    row = {"record_id": pair.record_id, **prompt_row(pair.prompt)}
    row |= {"chosen": [message_row(m) for m in pair.chosen], "rejected": [message_row(m) for m in pair.rejected]}
    row |= {"label": pair.label, "margin": pair.margin, "weight": pair.weight}
    return row | {"tie": pair.tie} if pair.tie else row


def from_row(row: Any) -> Comparison:
    """The record of a row that ``to_row`` made. Raises an error that names the field otherwise."""
    if not isinstance(row, dict):
        raise RowError("row", f"must be a JSON object, is {type(row).__name__}")
    if row.get("schema") != SCHEMA:
        raise RowError("schema", f"is {row.get('schema')!r}, this version of Keel reads schema {SCHEMA}")
    candidates = get(row, "candidates", list)
    if len(candidates) != 2 or not all(isinstance(c, dict) for c in candidates):
        raise RowError("candidates", "must be two objects with candidate_id, text and origin")
    first, second = (candidate_from(c, f"candidates.{i}") for i, c in enumerate(candidates))
    if first.candidate_id == second.candidate_id:
        raise RowError("candidates", f"must differ: both candidates have the id {first.candidate_id!r}")
    outcome, strength, order = get(row, "outcome", str), get(row, "strength", (int, float, bool)), get(row, "display_order", list)
    if outcome not in _OUTCOMES:
        raise RowError("outcome", f"must be one of {', '.join(_OUTCOMES)}, is {outcome!r}")
    if isinstance(strength, bool) or not 0.0 <= strength <= 1.0:
        raise RowError("strength", f"must be between 0 and 1, is {strength}")
    if order not in ([0, 1], [1, 0]):
        raise RowError("display_order", f"must be [0, 1] or [1, 0], is {order}")
    return Comparison(
        record_id=get(row, "record_id", str),
        prompt=prompt_from(row),
        candidates=(first, second),
        outcome=outcome,  # type: ignore[arg-type]
        strength=strength,
        annotator_id=get(row, "annotator_id", str),
        protocol=get(row, "protocol", str),
        display_order=(order[0], order[1]),
        source_id=get(row, "source_id", str),
    )
