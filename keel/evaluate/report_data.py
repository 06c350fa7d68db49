"""What a report is made of, read from a run directory. Nothing is computed here and nothing invented: what is not in a file is absent."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.core.json_lines import lines_of
from keel.evaluate.compare import PromptAnswers
from keel.runs.columns import Columns, load

log = logging.getLogger("keel")

STAGE_ORDER = ("sft", "preferences", "reward", "rl", "prefer", "evaluate")
_TOLD = ("warning", "verdict", "resolved", "emergency", "adjusted", "recovery", "paused", "resumed", "interrupted")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageData:
    """One stage's files. ``folder`` is relative to the run directory, "" when the run is that one stage."""

    name: str
    folder: str
    metrics: Columns = field(default_factory=Columns)  # of metrics.jsonl
    abandoned: Columns = field(default_factory=Columns)  # of abandoned.jsonl: what emergencies took back
    summary: Row = field(default_factory=dict[str, Any])
    manifest: Row = field(default_factory=dict[str, Any])
    samples: tuple[Row, ...] = ()  # rows of samples/training.jsonl: {"step", "prompt", "text", "reward", "why"}
    told: tuple[Row, ...] = ()  # warnings, verdicts, interruptions out of events.jsonl

    def file(self, name: str) -> str:
        """Path of one of the stage's files, as written in the report."""
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True, slots=True)
class ReportData:
    """A run as plain data."""

    name: str
    summary: Row
    manifest: Row
    stages: tuple[StageData, ...]
    answers: tuple[PromptAnswers, ...] = ()
    answers_file: str = "samples/evaluation.jsonl"
    folder: Path | None = None  # where it was read


def collect(run_dir: Path, texts: bool = True) -> ReportData:
    """Read a pipeline's run directory (``stages/<stage>/`` inside) or that of a single stage.

    Files that are not there are left out; without ``texts`` samples and answers too. Raises RunError when the directory holds neither a
    manifest nor metrics nor stages.
    """
    run_dir = Path(run_dir)
    ran = _object(run_dir / "summary.json").get("stages", ())
    order = {name: i for i, name in enumerate(ran)} if isinstance(ran, list) else {}
    folders = sorted((p for p in run_dir.glob("stages/*") if p.is_dir()), key=lambda p: (order.get(p.name, _place(p.name)), p.name))
    if not folders and not any((run_dir / name).is_file() for name in ("manifest.json", "metrics.jsonl", "summary.json")):
        raise RunError(f"no run in {run_dir}: neither manifest.json nor metrics.jsonl nor stages/", "give the directory of a run")
    manifest = _object(run_dir / "manifest.json")
    summary = _object(run_dir / "summary.json")
    if folders:
        stages = tuple(_stage(p.name, run_dir, p, texts) for p in folders)
    else:
        stages = (_stage(str(manifest.get("verb") or "run"), run_dir, run_dir, texts),)
    places = [run_dir, *(p for p in folders if p.name == "evaluate")]
    path = next((p for place in places if texts and (p := place / "samples" / "evaluation.jsonl").is_file()), None)
    answers = tuple(PromptAnswers.from_row(row) for row in _rows(path)) if path else ()
    where = path.relative_to(run_dir).as_posix() if path else "samples/evaluation.jsonl"
    return ReportData(run_dir.resolve().name, summary, manifest, stages, answers, where, run_dir)


def _place(stage: str) -> int:
    return STAGE_ORDER.index(stage) if stage in STAGE_ORDER else len(STAGE_ORDER)


def _stage(name: str, run_dir: Path, folder: Path, texts: bool) -> StageData:
    return StageData(
        name=name,
        folder="" if folder == run_dir else folder.relative_to(run_dir).as_posix(),
        metrics=_metrics(folder / "metrics.jsonl"),
        abandoned=Columns.of_rows(_rows(folder / "abandoned.jsonl")),
        summary=_object(folder / "summary.json"),
        manifest=_object(folder / "manifest.json"),
        samples=_rows(folder / "samples" / "training.jsonl") if texts else (),
        told=tuple(row for row in _rows(folder / "events.jsonl") if row.get("kind") in _TOLD),
    )


def _metrics(path: Path) -> Columns:
    found = load(path)
    if found.left_out:
        log.warning("%s: %d broken lines were left out of the report", path, found.left_out)
    return found


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        log.warning("%s cannot be read as JSON; the report goes without it", path)
        return {}
    return value if isinstance(value, dict) else {}


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        return ()
    rows: list[dict[str, Any]] = []
    broken = 0
    for line in lines_of(path.read_text(encoding="utf-8", errors="replace")):
        try:
            value = json.loads(line) if line.strip() else None
        except ValueError:  # a run that is being written ends in half a line
            broken += 1
            continue
        if isinstance(value, dict):
            rows.append(value)
    if broken:
        log.warning("%s: %d broken lines were left out of the report", path, broken)
    return tuple(rows)
