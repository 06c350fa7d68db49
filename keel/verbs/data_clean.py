"""`keel data clean FILE --out FILE`: the rows of a file without duplicates, contradictions, poor ones and questions of the evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section, as_override, load
from keel.core.errors import DataError, UserError
from keel.data.cleaning.clean import clean
from keel.data.cleaning.config import CleanConfig
from keel.data.config import DataConfig
from keel.data.dataset import read_rows
from keel.data.rows import RawRow, without_pictures
from keel.runs.durable import write_atomic
from keel.verbs.shared.evaluation_sets import evaluation_prompts

log = logging.getLogger("keel")
_IMAGES = ("image", "images")


class DataCleanRecipe(Section):
    """Settings of `keel data clean`, given as overrides."""

    data: DataConfig = Field(description="The data; its path is the command's argument.")
    clean: CleanConfig = Field(default=CleanConfig(), description="What is taken out.")


def data_clean(path: str, out: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Write the rows that stay to ``out`` (JSON lines, each as it stood) and those that go to ``out`` with ``.removed.jsonl`` at its end,
    each with its place, rule and reason: what was taken out can be put back. Returns the counts. Raises UserError for a file
    that is there."""
    recipe = load(DataCleanRecipe, None, [as_override("data.path", path), *overrides])
    target, beside = Path(out), Path(f"{out.removesuffix('.jsonl')}.removed.jsonl")
    for file in (target, beside):
        if file.exists():
            raise UserError(f"{file} is there already", "name a new file, or remove this one")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder", "make the folder, or name another file")
    rows, bad, layout = read_rows(path, recipe.data)
    if not rows:
        raise DataError(
            f"{path}: no usable row of {len(bad)}, read as layout {layout!r}: {bad[0] if bad else ''}", "look at it: keel data show"
        )
    cleaned = clean([record for _, record in rows], recipe.clean, evaluation_prompts(recipe.clean.decontaminate))
    gone = [{"place": rows[r.place][0].place, "rule": r.rule, "reason": r.reason, "row": _row(rows[r.place][0])} for r in cleaned.removed]
    gone += [
        {
            "place": f"{b.file}:{b.line}",
            "rule": "bad_row",
            "reason": f"{b.field}: {b.reason}" if b.field else b.reason,
            "row": without_pictures(b.values),
        }
        for b in bad
    ]
    write_atomic(target, b"".join(_line(_row(rows[i][0])) for i in cleaned.kept))
    write_atomic(beside, b"".join(map(_line, gone)))
    counts = {"rows": len(rows) + len(bad), "bad_rows": len(bad), **cleaned.counts()}
    told = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    log.info("%s: %s; what was taken out, with the reasons: %s", path, told, beside)
    return {"path": path, "out": str(target), "removed_file": str(beside), "layout": layout, **counts}


def _row(raw: RawRow) -> Mapping[str, Any]:
    """A row as it stood; images are named from anywhere, as the row may lie in another folder now."""
    values = dict(raw.values)
    for name in _IMAGES:
        if isinstance(values.get(name), str):
            values[name] = _named(values[name], raw.folder)
        elif isinstance(values.get(name), list):
            values[name] = [_named(v, raw.folder) if isinstance(v, str) else v for v in values[name]]
    return values


def _named(source: str, folder: str) -> str:
    inside = Path(folder) / source if folder and len(source) < 1024 and not source.startswith(("data:", "http")) else None
    return str(inside) if inside is not None and inside.is_file() else source


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as a line; what JSON cannot hold (bytes of images in Parquet files) is refused, it would be lost."""
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    except TypeError as error:
        raise DataError(f"a row holds what JSON cannot: {error}", "write the images as files and name their paths") from None
