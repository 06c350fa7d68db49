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


def improve_tile(stage: StageData, note: Note) -> dict[str, Any]:
    """The held-out measure of what is kept, beside that of the start. Where the measure only compares: by how much the kept round is better
    than the one that it was held against."""
    summary, file, kept = stage.summary, stage.file("summary.json"), stage.summary["kept"]
    start, score = summary.get("score_start"), summary.get("score_kept")
    said: dict[str, Any] = {"label": "Held-out measure", "before": None, "delta": None}
    about = f"{summary['kept_name']} is kept, measured by {summary['measured_by']}"
    if score is None:
        row = summary["improvement"][kept]
        change = row.get("change")
        if change is None:
            return said | {"after": "–", "note": about}
        note("Change of the kept round", _signed(change["mean"]), file, f"improvement.{kept}.change")
        against = "the start" if row["against"] == 0 else f"round {row['against']}"
        text = f"{about}; over {against}, {_signed(change['low'])} to {_signed(change['high'])}"
        return said | {"label": "Held-out change", "after": _signed(change["mean"]), "note": text}
    note("Held-out measure of what is kept", number(score["mean"]), file, "score_kept.mean")
    said |= {"after": number(score["mean"]), "note": f"{about}; {number(score['low'])} to {number(score['high'])} over prompts"}
    if kept and start is not None:
        note("Held-out measure of the start", number(start["mean"]), file, "score_start.mean")
        said |= {"before": number(start["mean"]), "delta": _signed(score["mean"] - start["mean"])}
    return said


def _interval(x: Mapping[str, Any] | None, style: Callable[[float], str]) -> str:
    return "–" if x is None else f"{style(x['mean'])} ({style(x['low'])} – {style(x['high'])})"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)
