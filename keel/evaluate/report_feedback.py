"""People's work, mined failures and rounds of self-improvement on the report's page: tables of what stages left in their summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keel.evaluate.report_data import StageData
from keel.evaluate.report_improve import improve_view
from keel.evaluate.report_plots import number, percent

Note = Callable[[str, str, str, str], None]
_MEANS = {
    "hack": "looks made for the reward",
    "rule": "breaks a rule",
    "length": "its reward is far from what answers of its length get",
    "unsure": "the members of the reward model disagree",
    "close": "two answers with nearly the same reward",
}


def feedback_view(stage: StageData, note: Note) -> dict[str, Any] | None:
    """Tables of a stage, with what stands under them; None for a stage that has none."""
    if isinstance(stage.summary.get("mined"), Mapping):
        return _mined(stage, note)
    if isinstance(stage.summary.get("improvement"), list):
        return improve_view(stage, note)
    if isinstance(stage.summary.get("retracted"), Mapping) and "snapshot" in stage.summary:
        return _people(stage, note)
    return None


def _mined(stage: StageData, note: Note) -> dict[str, Any]:
    file, rows, examples = stage.file("summary.json"), list[tuple[str, ...]](), list[dict[str, Any]]()
    for name, found in stage.summary["mined"].items():
        kinds = ", ".join(f"{kind} {n}" for kind, n in found["kinds"].items())
        rows.append((name, _MEANS.get(name, ""), f"{found['found']} {found['of']}", kinds, str(found["tasks"])))
        note(f"Mined in {stage.name}: {name}", f"{found['found']} {found['of']}, {found['tasks']} tasks", file, f"mined.{name}")
        if found["examples"]:
            examples.append({"title": name, "answers": found["examples"]})
    arms = stage.summary.get("arms", {})
    under = f"{stage.summary.get('tasks', 0)} tasks: " + ", ".join(f"{n} {arm}" for arm, n in arms.items())
    under += f"; {stage.summary.get('hack_pairs', 0)} hacks are rejected answers of pairs. One answer may have several reasons."
    head = ("reason", "what it means", "found", "of these", "tasks")
    return {"title": "Failures by reason", "head": head, "rows": rows, "under": under, "examples": examples}


def _people(stage: StageData, note: Note) -> dict[str, Any]:
    summary, file = stage.summary, stage.file("summary.json")
    gold, agreed = summary["gold"], summary["agreement"]
    asked = gold["asked"]
    facts = [
        ("items done", f"{summary['done']} of {summary['items']}", "done"),
        ("votes that count", str(summary["votes"]), "votes"),
        ("known items right", f"{percent(gold['right'] / asked)} of {asked}" if asked else "none were asked", "gold"),
        ("agreement: raw", percent(agreed["raw"]) if agreed["raw"] is not None else "not known", "agreement.raw"),
        (
            "agreement: Krippendorff's alpha, ordinal",
            number(agreed["alpha_ordinal"]) if agreed["alpha_ordinal"] is not None else "not known",
            "agreement.alpha_ordinal",
        ),
        ("both called bad", f"{summary['both_bad']} times", "both_bad"),
        ("snapshot", str(summary["snapshot"]), "snapshot"),
    ]
    for label, text, path in facts:
        note(f"People of {stage.name}: {label}", text, file, path)
    rows = [(label, text) for label, text, _ in facts]
    rows += [(f"taken back: {who}", why) for who, why in summary["retracted"].items()]
    under = "Not in the pairs: " + (", ".join(f"{n} {why}" for why, n in summary["left_out"].items()) or "nothing")
    return {"title": "People's work", "head": ("", ""), "rows": rows, "under": under + ".", "examples": []}
