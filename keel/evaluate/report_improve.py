"""Rounds of self-improvement on the report's page: what was measured of each, and whether it was accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keel.evaluate.report_data import StageData
from keel.evaluate.report_plots import number, percent

Note = Callable[[str, str, str, str], None]
HEAD = (
    "round",
    "verdict",
    "held-out measure",
    "change to the last good one",
    "the judge's share over the start",
    "tokens",
    "success",
    "lessons",
)
_MEANS = {"start": "", "better": "accepted: better", "no worse": "neither", "worse": "worse", "no lesson": "nothing learnt"}
_CELLS = ("score", "change", "judge", "tokens")


def improve_view(stage: StageData, note: Note) -> dict[str, Any]:
    """A table of the rounds, and under it why the run ended and what is kept."""
    summary, file = stage.summary, stage.file("summary.json")
    styles = (number, _signed, percent, number)
    rows: list[tuple[str, ...]] = []
    for i, row in enumerate(summary["improvement"]):
        name = f"{row['round']}" if row["round"] else "start"
        name += " (kept)" if row["round"] == summary["kept"] else ""
        told = "refused: worse" if row["round"] in summary["refused"] else _MEANS[row["verdict"]]
        cells = [_interval(row.get(key), style) for key, style in zip(_CELLS, styles, strict=True)]
        for key, text in zip(_CELLS, cells, strict=True):
            if row.get(key) is not None:
                note(f"{stage.name}: {key} of round {row['round']}", text, file, f"improvement.{i}.{key}")
        lessons = "" if "lessons" not in row else f"{row['lessons']} + {row['replayed']} replayed"
        success = percent(row["success"]) if row.get("success") is not None else "–"
        rows.append((name, told, *cells, success, lessons))
    by = f"Measured by {summary['measured_by']}, learnt from judge {summary['judge']}."
    guard = "" if summary["gate"] else " The gate was off: no round was refused."
    guard += " Nothing but that judge measured it: a rise proves nothing." if summary["unguarded"] else ""
    under = f"{by}{guard} Why it ended: {summary['stopped']}. Kept: {summary['kept_name']}. Intervals are over prompts."
    return {"title": "Rounds", "head": HEAD, "rows": rows, "under": under, "examples": []}


def _interval(x: Mapping[str, Any] | None, style: Callable[[float], str]) -> str:
    return "–" if x is None else f"{style(x['mean'])} ({style(x['low'])} – {style(x['high'])})"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)
