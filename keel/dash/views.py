"""What the pages ask for, as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keel.core.errors import RunError
from keel.dash import bins, charts
from keel.dash.bins import Binned, Grid
from keel.dash.folder import Folder, Run, number_text
from keel.dash.metrics import Metrics
from keel.evaluate.statistics import student
from keel.runs import listing, logs
from keel.runs.directory import CHECKPOINTS, read_manifest, read_summary
from keel.runs.environment import flatten
from keel.runs.places import places

MOST_EVENTS = 600


def overview(runs: Sequence[Run]) -> dict[str, Any]:
    """What a view of these runs has: rows, pictures, all metrics, first and last step."""
    read = {run.name: run.read(len(runs)) for run in runs}
    names = list(dict.fromkeys(n for metrics, _ in read.values() for n in metrics.names))
    shown, fans, rest = charts.chosen(names, len(runs) > 1)
    ends = bins.window([m.steps.values for m, _ in read.values()] + [run.abandoned.steps.values for run in runs])  # type: ignore[misc]
    return {
        "runs": [run.row() | {"read": round(read[run.name][1], 3), "cursor": run.cursor} for run in runs],
        "charts": [{"key": key, "metrics": metrics} for key, metrics in shown],
        "fans": fans,
        "rest": rest,
        "low": ends[0] if ends else 0,
        "high": ends[1] if ends else 0,
        "left_out": sum(m.left_out for m, _ in read.values()),
    }


def curves(runs: Sequence[Run], asked: Sequence[Any], low: float | None, high: float | None, pixels: int, pool: bool) -> dict[str, Any]:
    """Pictures for the metrics named in ``asked`` (a list of names, or the key of a distribution), between two steps."""
    read = {run.name: run.read(len(runs)) for run in runs}
    made = [_picture(runs, read, one, low, high, pixels, pool) for one in asked]
    return {"charts": made, "read": {name: round(share, 3) for name, (_, share) in read.items()}}


def _picture(
    runs: Sequence[Run],
    read: Mapping[str, tuple[Metrics, float]],
    asked: Any,
    low: float | None,
    high: float | None,
    pixels: int,
    pool: bool,
) -> dict[str, Any]:
    fan = charts.FAN_OF.get(asked) if isinstance(asked, str) else None
    names = [fan.mean, fan.low, fan.high, fan.std] if fan else [str(n) for n in asked][: charts.MOST_LINES]
    points = {(run.name, name): read[run.name][0].points(name) for run in runs for name in names}
    lost = {(run.name, name): run.abandoned.points(name) for run in runs for name in names}
    ends = bins.window([s for s, _ in [*points.values(), *lost.values()]]) or (0.0, 0.0)
    first, last = ends[0] if low is None else low, ends[1] if high is None else high
    on = bins.grid([s for s, _ in points.values()], first, last, pixels)
    on_lost = bins.grid([s for s, _ in lost.values()], first, last, pixels)
    binned = {key: bins.binned(*value, on, first, last) for key, value in points.items()}
    gone = {key: bins.binned(*value, on_lost, first, last) for key, value in lost.items() if len(value[0])}
    made: dict[str, Any] = {"x": bins.steps_of(on.x_B), "exact": on.edges is None}
    if fan:
        return made | {"curves": [_fan(binned, run.name, fan) | {"run": run.name, "metric": fan.mean} for run in runs]}
    made["lost"] = [{"run": r, "metric": n, "points": _lost(on_lost, curve)} for (r, n), curve in gone.items() if len(on_lost.x_B)]
    groups = _groups(runs) if pool else {}
    single = [run for run in runs if run.name not in {r.name for g in groups.values() for r in g}]
    made["curves"] = [
        _pooled([binned[run.name, name] for run in members]) | {"group": key, "run": members[0].name, "n": len(members), "metric": name}
        for key, members in groups.items()
        for name in names
    ] + [_curve(binned[run.name, name]) | {"run": run.name, "metric": name} for run in single for name in names]
    return made


def _groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seeds, by group; where there are two or more."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.row().get("group") or run.name, []).append(run)
    return {key: members for key, members in found.items() if len(members) > 1}


def _curve(curve: Binned) -> dict[str, Any]:
    made: dict[str, Any] = {"mean": bins.plain(curve.mean_B)}
    if not np.array_equal(curve.low_B, curve.high_B, equal_nan=True):
        made |= {"low": bins.plain(curve.low_B), "high": bins.plain(curve.high_B)}
    return made | ({"holes": curve.holes} if curve.holes else {})


def _pooled(members: Sequence[Binned]) -> dict[str, Any]:
    whole = bins.pooled(members)
    made = {
        "mean": whole.mean_B,
        "low": whole.low_B,
        "high": whole.high_B,
        "inner_low": whole.inner_low_B,
        "inner_high": whole.inner_high_B,
    }
    holes = tuple(dict.fromkeys(hole for curve in members for hole in curve.holes))
    return {name: bins.plain(values) for name, values in made.items()} | ({"holes": holes} if holes else {})


def _fan(binned: Mapping[tuple[str, str], Binned], run: str, fan: charts.Fan) -> dict[str, Any]:
    mean = binned[run, fan.mean]
    made = {"mean": mean.mean_B, "low": binned[run, fan.low].low_B, "high": binned[run, fan.high].high_B}
    std = binned.get((run, fan.std))
    if fan.std and std is not None and np.isfinite(std.mean_B).any():
        made |= {"inner_low": mean.mean_B - std.mean_B, "inner_high": mean.mean_B + std.mean_B}
    return {name: bins.plain(values) for name, values in made.items()} | ({"holes": mean.holes} if mean.holes else {})


def _lost(on: Grid, curve: Binned) -> list[list[Any]]:
    """(step, least, greatest) of what was taken back; what was not finite has its name instead."""
    low, high = bins.plain(curve.low_B), bins.plain(curve.high_B)
    x = bins.steps_of(on.x_B)
    return [[x[i], low[i], high[i]] for i in range(len(x)) if low[i] is not None] + [[x[i], kind, kind] for i, kind in curve.holes]


def events(runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs told, the latest ones where there are many."""
    rows, left_out = list[dict[str, Any]](), 0
    for run in runs:
        told = run.look()
        kept = told.rows[-MOST_EVENTS:]
        left_out += told.left_out + len(told.rows) - len(kept)
        rows += [{"run": run.name, **row} for row in kept]
    return {"events": rows, "left_out": left_out}


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Final numbers and the settings that differ; for seeds of the same settings the mean with its interval."""
    try:
        table = listing.compare([run.path for run in runs])
    except RunError as error:
        return {"numbers": [], "settings": [], "why": error.message}
    groups = list(_groups(runs).values())
    at = {run.name: i for i, run in enumerate(runs)}
    numbers = [
        {"name": name, "values": [None if v is None else number_text(v) for v in values], "pooled": [_mean(values, m, at) for m in groups]}
        for name, values in table.metrics.items()
    ]
    settings = [{"name": name, "values": [None if v is None else str(v)[:300] for v in values]} for name, values in table.settings.items()]
    return {"numbers": numbers, "settings": settings, "groups": [[run.name for run in members] for members in groups]}


def _mean(values: Sequence[float | None], members: Sequence[Run], at: Mapping[str, int]) -> dict[str, float] | None:
    found = [v for run in members if (v := values[at[run.name]]) is not None and math.isfinite(v)]
    if len(found) < 2:
        return None
    half = student(len(found) - 1) * float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return {"mean": float(np.mean(found)), "half": half, "n": len(found)}


def about(run: Run, folder: Folder) -> dict[str, Any]:
    """Where a run came from and what it left: parent, children, data, stages, checkpoints, settings, final numbers."""
    try:
        manifest, summary = read_manifest(run.path) or {}, read_summary(run.path)
    except RunError as error:
        return {"why": error.message}
    rows = {other.name: other.row() for other in folder.runs()}
    own, known = run.path.resolve(), {other.path.resolve(): other.name for other in folder.runs()}
    parent = str(manifest.get("parent") or "")
    return {
        "row": run.row(),
        "parent": parent,
        "parent_id": next((known[place] for place in sorted(places(manifest, parent)) if place in known), ""),
        "children": [other.name for other in folder.runs() if own in other.parents()],
        "stages": [name for name in rows if name.startswith(f"{run.name}/stages/") or (run.name == "." and name.startswith("stages/"))],
        "data": [[name, str(mark)[:16]] for name, mark in (manifest.get("data") or {}).items()],
        "pinned": [[name, str(mark)[:16]] for name, mark in (manifest.get("pinned") or {}).items()],
        "starts": [
            {"at": str(s.get("at", "")), "argv": " ".join(map(str, s.get("argv", []))), "changed": [str(c) for c in s.get("changed", [])]}
            for s in manifest.get("starts", [])
            if isinstance(s, dict)
        ],
        "environment": [
            [k, str(v)[:300]]
            for k, v in flatten({k: manifest.get(k) for k in ("git", "python", "packages", "machine") if k in manifest}).items()
        ],
        "settings": [[k, str(v)[:300]] for k, v in flatten(manifest.get("config") or {}).items()],
        "numbers": [[k, number_text(v)] for k, v in listing.numbers_of(summary, logs.last_row(run.path / "metrics.jsonl")).items()],
        "checkpoints": checkpoints(run.path / CHECKPOINTS),
        "final": (run.path / "final").is_dir(),
    }


def checkpoints(folder: Path) -> list[dict[str, Any]]:
    """What lies in ``checkpoints/``: step, size, marks, and whether it is whole."""
    marks: dict[int, list[str]] = {}
    for mark in ("latest", "best", "good"):
        row = logs.last_row(folder / mark)
        if isinstance(row.get("step"), int):
            marks.setdefault(row["step"], []).append(mark)
    found = list[dict[str, Any]]()
    try:
        inside = sorted((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    except OSError:
        return found
    for path in inside:
        try:
            size = sum(p.stat().st_size for p in path.iterdir() if p.is_file())
        except OSError:
            continue  # removed while we looked
        step = int(path.name)
        found.append({"step": step, "bytes": size, "marks": marks.get(step, []), "whole": (path / "complete.json").is_file()})
    return found
