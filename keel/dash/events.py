"""What a run told: alarms, emergencies, interruptions; kept small however long the run is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.dash.tail import Tail
from keel.runs import logs

KINDS = frozenset(
    {"warning", "verdict", "resolved", "emergency", "adjusted", "recovery", "paused", "resumed", "interrupted", "phase", "self_test"}
    | {"stage_started", "stage_finished", "run_started", "run_finished"}
)
ALARMS = frozenset({"warning", "verdict", "emergency"})
_MOST = 4000  # kept; the earliest ordinary ones go first, and are counted
_LONGEST = 600  # characters of a message


class Events:
    """The events of a run that people want to see, read as they come."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._clear()

    def _clear(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.counts: dict[str, int] = {}
        self.left_out = 0  # that are no longer kept
        self.total_steps: int | None = None

    @property
    def cursor(self) -> int:
        return self._tail.cursor

    def refresh(self) -> Events:
        """Read what is new."""
        while True:
            lines = self._tail.lines()
            if self._tail.again:
                self._clear()
            if not lines:
                return self
            for _, line in lines:
                if (row := logs.parse(line)) is not None:
                    self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        kind = row.get("kind")
        if kind == "run_started" and isinstance(row.get("total_steps"), int):
            self.total_steps = row["total_steps"]
        if kind not in KINDS:
            return
        shown = short(row)
        if kind in ALARMS and "undone" not in row:
            self.counts[shown["level"]] = self.counts.get(shown["level"], 0) + 1
        self.rows.append(shown)
        if len(self.rows) > _MOST:
            at = next((i for i, r in enumerate(self.rows) if r["kind"] not in ALARMS), 0)
            del self.rows[at]
            self.left_out += 1


def short(row: Mapping[str, Any]) -> dict[str, Any]:
    """An event as the page shows it."""
    kind = str(row.get("kind"))
    level = "critical" if kind == "emergency" else str(row.get("level", "") or ("warning" if kind in ALARMS else ""))
    step = row.get("step")
    kept: dict[str, Any] = {"kind": kind, "step": step if isinstance(step, int) else 0, "level": level, "at": str(row.get("at", ""))}
    kept["message"] = str(row.get("message") or row.get("reason") or "")[:_LONGEST]
    for name in ("rule", "metric", "page", "back_to", "undone", "number", "rollback"):
        if isinstance(row.get(name), str | int):
            kept[name] = row[name]
    return kept
