"""The table of formats: how feedback that other tools collected is read and written.

A new format is a file here with ``NAME``, ``fits``, ``read`` and ``write``, and a row in ``FORMATS``.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DataError
from keel.data.left_out import LeftOut
from keel.data.sources import read_plain
from keel.feedback.exchange import argilla, crowd_csv, distilabel, files, keel_jsonl, label_studio, lmarena, mturk, potato, prolific
from keel.feedback.exchange.imported import Imported

_LOOK = 20  # rows that are looked at to tell a format


@dataclass(frozen=True, slots=True)
class Format:
    """``fits`` tells a row of the format from others; None where it is a folder, which ``fits_folder`` tells. ``by_prompt``: the
    format's ids are those of prompts, which several pairs of answers share."""

    name: str
    about: str
    read: Callable[[Path], Imported]
    write: Callable[[Imported, Path], tuple[LeftOut, ...]]
    fits: Callable[[Mapping[str, Any]], bool] | None = None
    fits_folder: Callable[[Path], bool] | None = None
    by_prompt: bool = False


# The first that fits wins: formats with more particular columns stand before those with common ones.
_ROWS = (
    Format("keel", "Keel's own rows: tasks, judgements, annotators (JSONL)", keel_jsonl.read, keel_jsonl.write, keel_jsonl.fits),
    Format("label_studio", "Label Studio's JSON export", label_studio.read, label_studio.write, label_studio.fits),
    Format("argilla", "Argilla's records (JSON)", argilla.read, argilla.write, argilla.fits),
    Format("distilabel", "distilabel's ratings of generations", distilabel.read, distilabel.write, distilabel.fits, by_prompt=True),
    Format("lmarena", "battles of LMArena, MT-bench's judgements", lmarena.read, lmarena.write, lmarena.fits, by_prompt=True),
    Format("mturk", "Mechanical Turk's batch results (CSV)", mturk.read, mturk.write, mturk.fits),
    Format("prolific", "Prolific's submissions, or answers with PROLIFIC_PID (CSV)", prolific.read, prolific.write, prolific.fits),
    Format(
        "crowd_csv", "votes of a crowd: task, worker, label or worker, left, right, winner", crowd_csv.read, crowd_csv.write, crowd_csv.fits
    ),
    Format("potato", "a Potato project's folder", potato.read, potato.write, fits_folder=potato.fits),
)
FORMATS: Mapping[str, Format] = {row.name: row for row in _ROWS}


def named(name: str) -> Format:
    """The format of that name. Raises ConfigError with a suggestion."""
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, 1)
    raise ConfigError(f"format {name!r} is not known" + (f"; did you mean {near[0]!r}?" if near else ""), f"known: {', '.join(FORMATS)}")


def read(name: str, path: str | Path) -> Imported:
    """Everything in a file (or folder) of format ``name``; "auto" detects it. Raises DataError where nothing can be read at all; single
    rows and answers that make no record come back in ``left_out``."""
    found = detect(path) if name == "auto" else name
    return named(found).read(Path(path).expanduser())


def write(name: str, imported: Imported, path: str | Path, *, or_nothing: bool = False) -> tuple[LeftOut, ...]:
    """Write records as another tool reads them. Returns what the format has no place for, each by name. Raises DataError where that is
    all of them, with ``or_nothing``: then nothing is written, and what was there stays."""
    form, where = named(name), Path(path).expanduser()
    if name != keel_jsonl.NAME:
        imported = files.apart(imported, FORMATS)
        imported = imported if form is FORMATS[label_studio.NAME] else files.alone(imported)
        imported = imported if form.by_prompt else files.told_apart(imported)
    if or_nothing:
        with tempfile.TemporaryDirectory() as folder:
            left = form.write(imported, Path(folder) / where.name)
        lost = {x.record_id for x in left}
        judged = {j.task_id for j in imported.judgements}
        if all(j.event_id in lost for j in imported.judgements) and all(t.task_id in lost or t.task_id in judged for t in imported.tasks):
            why = f" (first: {left[0].reason})" if left else ""
            raise DataError(f"nothing can be written as {name}: {len(left)} records are left out{why}", "choose another form")
    return form.write(imported, where)


def detect(path: str | Path) -> str:
    """The name of a file's or folder's format, told by its first rows. Raises DataError for one that fits none."""
    where = Path(path).expanduser()
    if where.is_dir():
        found = next((f.name for f in _ROWS if f.fits_folder is not None and f.fits_folder(where)), None)
        if found is None:
            raise DataError(f"{path}: a folder of no known format", "give a file, or the folder of a Potato project")
        return found
    rows = read_plain(where).rows[:_LOOK]
    for form in _ROWS:
        if form.fits is not None and any(form.fits(row.values) for row in rows):
            return form.name
    columns = ", ".join(sorted({c for row in rows for c in row.values})) or "(none)"
    raise DataError(
        f"{path}: no known format of feedback has these columns: {columns}",
        f"name it: {', '.join(f.name for f in _ROWS if f.fits)}; docs/feedback_formats.md shows their columns",
    )
