"""Metrics of several runs in one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.core.figures import grid, save
from keel.runs import logs
from keel.runs.directory import ABANDONED, EVENTS, METRICS


def plot_runs(runs: Sequence[Path], metrics: Sequence[str], path: Path) -> None:
    """A picture (PNG, SVG, PDF by ``path``) with one field a metric and one line a run; values that span two orders of magnitude (the
    lowest quarter aside) stand on a logarithmic scale. Emergencies are dashed lines; steps that they took back are dots.

    Raises RunError for a folder without metrics or a metric that no run has, UserError where the file cannot be written.
    """
    rows = {run: _rows(run, METRICS) for run in runs}
    for metric in metrics:
        if not any(metric in row for of in rows.values() for row in of):
            there = sorted({name for of in rows.values() for row in of for name in row})
            raise RunError(f"no run has the metric {metric!r}", f"there are: {', '.join(there)}")
    names = _names(runs)
    figure, axes = grid(1, len(metrics), 4 * len(metrics), 2.8)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for run in runs:
            _draw(axis, run, metric, rows[run], names[run])
        axis.set_title(metric, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    save(figure, path)


def _rows(run: Path, file: str) -> list[dict[str, Any]]:
    found = logs.read(run / file) if (run / file).is_file() else []
    if not found and file == METRICS:
        raise RunError(f"{run}: there are no metrics", "give the directory of a run: it holds metrics.jsonl")
    return found


def _names(runs: Sequence[Path]) -> Mapping[Path, str]:
    """Folder names, longer where two are the same."""
    short = [run.name for run in runs]
    return {run: run.name if short.count(run.name) == 1 else str(run) for run in runs}


def _draw(axis: Any, run: Path, metric: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    points = _points(rows, metric)
    (line,) = axis.plot([s for s, _ in points], [v for _, v in points], label=name, linewidth=1.3)
    left = _points(_rows(run, ABANDONED), metric)
    axis.plot([s for s, _ in left], [v for _, v in left], ".", color=line.get_color(), markersize=4)
    for event in _rows(run, EVENTS):
        if event.get("kind") == "emergency" and "undone" not in event:
            axis.axvline(event["step"], color=line.get_color(), linestyle="--", linewidth=0.7)
    values = sorted(v for _, v in points + left)
    low = values[len(values) // 4] if values else 0.0  # not the lowest: a KL is all but 0 in the first step
    if low > 0 and values[-1] > 100 * low:
        axis.set_yscale("log")


def _points(rows: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, value) where there is a finite one."""
    return [(row["step"], float(v)) for row in rows if isinstance(v := row.get(metric), int | float) and math.isfinite(v)]
