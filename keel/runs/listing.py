"""What `keel runs` shows: the runs below a folder, and some runs side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from keel.core.errors import RunError
from keel.runs import audits, logs, rollouts
from keel.runs.directory import CHECKPOINTS, COLUMNS, MANIFEST, METRICS, SAMPLES, read_manifest, read_summary
from keel.runs.environment import flatten
from keel.runs.lock import holder

# the first two that are there
_HEADLINE = ("win_rate.mean", "score_kept.mean", "reward_after", "eval/accuracy", "eval/reward", "accuracy", "reward", "eval/loss", "loss")
# many files or large ones, and no run among them
INSIDE = (CHECKPOINTS, SAMPLES, COLUMNS, rollouts.FOLDER, audits.FOLDER, "final", "adapter", "critic")
_NOT_COMPARED = ("time/", "mem/", "tokens_per_s")


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in the list. ``status``: finished, running, stopped (it can be resumed) or broken."""

    path: Path
    verb: str
    status: str
    step: int
    started: str
    parent: str
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side: one column a run, in ``names``. A cell is None where a run does not have the row."""

    names: tuple[str, ...]
    metrics: Mapping[str, tuple[float | None, ...]]  # of summary.json, else of the last step
    settings: Mapping[str, tuple[Any, ...]]  # only those that differ


def list_runs(root: Path) -> list[RunRow]:
    """All runs below ``root`` (pipelines and their stages), oldest first. Raises RunError when the folder is not there."""
    if not root.is_dir():
        raise RunError(f"no such folder: {root}", "give the folder that holds your runs: keel runs --root FOLDER")
    rows = [_row(path) for path in sorted(_found(root))]
    return sorted(rows, key=lambda row: (row.started, str(row.path)))


def _found(root: Path) -> Iterator[Path]:
    """Folders with a manifest. What a run keeps in folders of its own is not looked through."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in INSIDE]
        if MANIFEST in files:
            yield Path(folder)


def _row(path: Path) -> RunRow:
    try:
        manifest, summary = read_manifest(path) or {}, read_summary(path)
    except RunError:
        return RunRow(path, "?", "broken", 0, "", "")
    last = _last_row(path)
    status = "finished" if summary is not None else "running" if holder(path) is not None else "stopped"
    numbers = numbers_of(summary, last)
    starts: list[dict[str, Any]] = manifest.get("starts", [])
    return RunRow(
        path=path,
        verb=str(manifest.get("verb", "?")),
        status=status,
        step=int(last.get("step", 0)),
        started=str(starts[0]["at"]) if starts else "",
        parent=str(manifest.get("parent") or ""),
        numbers=dict(headline(numbers)),
    )


def headline(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    """The result in one or two numbers, with their names."""
    return [(name, numbers[name]) for name in _HEADLINE if name in numbers][:2]


def _last_row(path: Path) -> dict[str, Any]:
    return logs.last_row(path / METRICS)


def numbers_of(summary: Mapping[str, Any] | None, last: Mapping[str, Any]) -> dict[str, float]:
    """Final numbers by key path: those of the summary, and of the last step what the summary does not have."""
    numbers: dict[str, float] = {}
    for name, value in {**last, **flatten(summary or {})}.items():
        if isinstance(value, bool) or name in ("step", "schema"):
            continue
        if isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity"):
            numbers[name] = float(value)
    return numbers


def compare(dirs: Sequence[Path]) -> Comparison:
    """Final numbers and differing settings of some runs. Raises RunError for a folder that holds no run."""
    manifests: list[dict[str, Any]] = []
    numbers: list[dict[str, float]] = []
    for path in dirs:
        manifest = read_manifest(path)
        if manifest is None:
            raise RunError(f"{path} holds no run (no {MANIFEST})", "give run directories: keel runs --compare DIR DIR")
        manifests.append(manifest)
        numbers.append(numbers_of(read_summary(path), _last_row(path)))
    configs = [flatten(m.get("config") or {}) for m in manifests]
    names = [k for k in dict.fromkeys(k for n in numbers for k in n) if not k.startswith(_NOT_COMPARED)]
    keys = list(dict.fromkeys(k for c in configs for k in c if k != "run_dir"))
    cells = {key: tuple(config.get(key) for config in configs) for key in keys}
    return Comparison(
        _short_names(dirs),
        {name: tuple(n.get(name) for n in numbers) for name in names},
        {key: values for key, values in cells.items() if any(v != values[0] for v in values)},
    )


def _short_names(dirs: Sequence[Path]) -> tuple[str, ...]:
    names = tuple(p.resolve().name for p in dirs)
    return names if len(set(names)) == len(names) else tuple(str(p) for p in dirs)


def print_runs(rows: Sequence[RunRow], console: Console | None = None) -> None:
    """The list as a table on standard output."""
    console = console or Console()
    if not rows:
        console.print("no runs yet")
        return
    table = Table("run", "verb", "status", "step", "started", "from", "result")
    colours = {"finished": "green", "running": "cyan", "broken": "red"}
    for row in rows:
        status = f"[{colours[row.status]}]{row.status}" if row.status in colours else row.status
        result = "  ".join(f"{name} {value:.4g}" for name, value in row.numbers.items())
        table.add_row(str(row.path), row.verb, status, str(row.step), row.started[:16].replace("T", " "), row.parent, result)
    console.print(table)


def print_comparison(table: Comparison, console: Console | None = None) -> None:
    """Numbers, then settings that differ, as tables on standard output."""
    console = console or Console()
    for title, cells in (("numbers", table.metrics), ("settings that differ", table.settings)):
        if cells:
            shown = Table(title, *table.names)
            for name, values in cast("Mapping[str, tuple[Any, ...]]", cells).items():
                shown.add_row(name, *(_cell(v) for v in values))
            console.print(shown)
        else:
            console.print(f"{title}: none")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
