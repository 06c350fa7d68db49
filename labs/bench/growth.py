"""How time and memory grow with one size of the work: the comparison at several values of it, the others as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from keel.core.figures import grid, save
from labs.bench.compare import Plan, compare
from labs.bench.report import SIDES
from labs.bench.workload import Workload

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Axis:
    """A size of the work, the values that it takes, and a workload with one of them."""

    what: str
    values: tuple[int, ...]
    at: Callable[[Workload, int], Workload]


def _model(name: str) -> Callable[[Workload, int], Workload]:
    return lambda work, value: replace(work, model=replace(work.model, **{name: value}))


AXES: dict[str, Axis] = {
    "group": Axis("samples a prompt", (2, 4, 8, 16), lambda work, n: replace(work, group=n)),
    "completion": Axis("tokens of a completion", (32, 64, 128, 256), lambda work, n: replace(work, completion=n)),
    "prompt": Axis("tokens of a prompt", (32, 128, 512), lambda work, n: replace(work, prompt_min=n, prompt_max=n)),
    "vocab": Axis("tokens of the vocabulary", (4000, 32000, 128000), _model("vocab")),
    "hidden": Axis("width of the model", (128, 256, 512), _model("hidden")),
}


def grow(base: Plan, axes: Sequence[str]) -> dict[str, Any]:
    """Every axis at every value. Raises UserError for an axis that is not in the table."""
    if unknown := [name for name in axes if name not in AXES]:
        raise UserError(f"no axis is named {', '.join(unknown)}", f"one of: {', '.join(AXES)}")
    points, machine = list[dict[str, Any]](), dict[str, Any]()
    for name in axes:
        for value in AXES[name].values:
            found = compare(replace(base, work=AXES[name].at(base.work, value)))
            log.info("%s = %d: %.3f s a step", name, value, found["keel"]["step_s"])
            points.append({"axis": name, "value": value} | {key: kept for key, kept in found.items() if key != "machine"})
            machine = found["machine"]
    return {"base": base.work.to_json(), "points": points, "machine": machine}


def markdown(found: Mapping[str, Any]) -> str:
    """A line a point: seconds and memory of the sides that ran, and the ratios."""
    sides = [side for side in SIDES if side in found["points"][0]]
    lines = [
        "| axis | value | " + " | ".join(f"{side} s" for side in sides) + " | " + " | ".join(f"{side} MB" for side in sides) + " |",
        "|---" * (2 + 2 * len(sides)) + "|",
    ]
    for p in found["points"]:
        seconds = " | ".join(f"{p[side]['step_s']:.2f}" for side in sides)
        memory = " | ".join(f"{p[side]['peak_mb']:.0f}" for side in sides)
        lines.append(f"| {p['axis']} | {p['value']} | {seconds} | {memory} |")
    return "\n".join(lines)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Seconds of a step above, peak memory below, one column an axis. Raises UserError when the file cannot be written."""
    names = list(dict.fromkeys(p["axis"] for p in found["points"]))
    figure, rows = grid(2, len(names), 2.7 * len(names), 5)
    for column, name in enumerate(names):
        points = [p for p in found["points"] if p["axis"] == name]
        for row, number, label in ((0, "step_s", "seconds a step"), (1, "peak_mb", "peak memory, MB")):
            axis = rows[row][column]
            for side in (side for side in SIDES if side in points[0]):
                axis.plot([p["value"] for p in points], [p[side][number] for p in points], marker="o", markersize=3, label=side)
            axis.set_xscale("log", base=2)
            axis.set_ylim(bottom=0)
            axis.set_xticks([p["value"] for p in points], [str(p["value"]) for p in points])
            axis.tick_params(labelsize=7)
            axis.set_xlabel(AXES[name].what, fontsize=8)
            if column == 0:
                axis.set_ylabel(label, fontsize=8)
    rows[0][0].legend(fontsize=7)
    save(figure, path)
