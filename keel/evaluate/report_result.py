"""What came out of a run, as the first numbers of its report: for runs that no summary compares before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keel.evaluate.report_curves import Note
from keel.evaluate.report_data import ReportData, StageData
from keel.evaluate.report_improve import improve_tile
from keel.evaluate.report_plots import number

_RESULTS = (  # the first that the last stage has
    ("eval/reward", "Reward at evaluations", "mean over held-out prompts"),
    ("eval/accuracy", "Accuracy at evaluations", "held-out pairs ordered as people did"),
    ("eval/rewards/accuracies", "Accuracy at evaluations", "held-out pairs ordered as people did"),
    ("eval/loss", "Loss at evaluations", "on held-out data: lower is better"),
    ("reward", "Reward", "mean over the answers of a step"),
    ("rewards/accuracies", "Accuracy", "pairs ordered as people did"),
    ("accuracy", "Accuracy", "pairs ordered as people did"),
    ("loss", "Loss", "lower is better"),
)


def result_tile(data: ReportData, note: Note) -> dict[str, Any] | None:
    """The last stage's result, first and last value; None where the summary tells of a comparison, or there are no metrics."""
    if {"win_rate", "reward_after"} & data.summary.keys() or not data.stages:
        return None
    stage = data.stages[-1]
    if isinstance(stage.summary.get("improvement"), list):
        return improve_tile(stage, note)
    for name, label, about in _RESULTS:
        steps, values = stage.metrics.points(name)
        found = [(int(s), float(v)) for s, v in zip(steps, values)]
        if found:
            return _tile(stage, name, label, about, found, note)
    return None


def _tile(stage: StageData, name: str, label: str, about: str, found: list[tuple[int, float]], note: Note) -> dict[str, Any]:
    (first, before), (last, after) = found[0], found[-1]
    said = {"label": label, "before": None, "delta": None, "after": _number(after), "note": f"{about}, step {last}"}
    if len(found) > 1:
        delta = after - before
        said |= {"before": _number(before), "note": f"{about}, steps {first} and {last}"}
        said["delta"] = ("+" if delta > 0 else "") + number(delta) if math.isfinite(delta) else None
        note(f"{label} (step {first})", _number(before), stage.file("metrics.jsonl"), name)
    note(f"{label} (step {last})", _number(after), stage.file("metrics.jsonl"), name)
    return said


def _number(value: float) -> str:
    return number(value) if math.isfinite(value) else str(value)


def warning_tile(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """That a run went back and never came out of it; it ends all the same."""
    told = summary.get("never_recovered")
    if not isinstance(told, str) or not told:
        return None
    return {"label": "Never recovered", "before": None, "delta": None, "after": "⚠", "note": told}
