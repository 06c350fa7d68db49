"""What is new, as server-sent events. Each page keeps a cursor, bytes of the files that it has seen; with it a broken connection goes on
where it was. What is sent for a step hangs on the step, not on the length of the run."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from keel.dash.events import KINDS, short
from keel.dash.folder import Folder, Run
from keel.dash.tail import Tail
from keel.runs import logs
from keel.runs.directory import ABANDONED, EVENTS, METRICS

TICK = 0.25  # seconds between two looks
PULSE = 15.0  # seconds after which something is sent even if nothing is new, so that both sides notice a dead line
MOST_ROWS = 200  # sent at a time; whoever is further behind asks for the curves again
_MOST_BYTES = 1 << 19


def cursors_of(text: str, n: int) -> list[tuple[int, int]] | None:
    """Bytes of metrics and events that a page has, for each of ``n`` runs: ``120.40-77.0``. None for what is no such text."""
    parts = text.split("-") if text else []
    if len(parts) != n:
        return None
    found = list[tuple[int, int]]()
    for part in parts:
        metrics, _, events = part.partition(".")
        if not (metrics.isascii() and metrics.isdecimal() and events.isascii() and events.isdecimal() and len(part) < 40):
            return None
        found.append((int(metrics), int(events)))
    return found


class Follower:
    """The files of some runs, from a cursor on."""

    def __init__(self, runs: Sequence[Run], cursors: Sequence[tuple[int, int]] | None) -> None:
        self._runs = runs
        ends = cursors or [(_end(run, METRICS), _end(run, EVENTS)) for run in runs]
        self._metrics = [Tail(run.path / METRICS, at) for run, (at, _) in zip(runs, ends, strict=True)]
        self._events = [Tail(run.path / EVENTS, at) for run, (_, at) in zip(runs, ends, strict=True)]
        self._lost = [_end(run, ABANDONED) for run in runs]
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._read: dict[str, bool] = {}

    @property
    def cursor(self) -> str:
        return "-".join(f"{m.cursor}.{e.cursor}" for m, e in zip(self._metrics, self._events))

    def look(self) -> list[tuple[str, Any]]:
        """What is new: (kind, content)."""
        found = list[tuple[str, Any]]()
        for i, run in enumerate(self._runs):
            found += self._steps(run, self._metrics[i]) + self._told(run, self._events[i])
            lost = _end(run, ABANDONED)
            if lost != self._lost[i]:
                self._lost[i] = lost
                found.append(("again", {"run": run.name}))
            row = run.row()
            if row != self._rows.get(run.name):
                if run.name in self._rows:
                    found.append(("row", row))
                self._rows[run.name] = row
            whole = run.preview is None
            if whole and not self._read.get(run.name, True):
                found.append(("again", {"run": run.name}))
            self._read[run.name] = whole
        return found

    def _steps(self, run: Run, tail: Tail) -> list[tuple[str, Any]]:
        lines = tail.lines(_MOST_BYTES)
        again = tail.again
        if len(lines) > MOST_ROWS or tail.behind:
            while tail.lines(_MOST_BYTES * 8):
                pass
            return [("again", {"run": run.name})]
        rows = [_sent(row) for _, line in lines if (row := logs.parse(line)) is not None]
        if again:
            return [("again", {"run": run.name})]
        return [("steps", {"run": run.name, "rows": rows})] if rows else []

    def _told(self, run: Run, tail: Tail) -> list[tuple[str, Any]]:
        lines = tail.lines(_MOST_BYTES)
        if tail.again:
            return [("events", {"run": run.name, "again": True})]
        rows = [short(row) for _, line in lines if (row := logs.parse(line)) is not None and row.get("kind") in KINDS]
        return [("events", {"run": run.name, "rows": rows})] if rows else []


def _end(run: Run, file: str) -> int:
    try:
        return (run.path / file).stat().st_size
    except OSError:
        return 0


def _sent(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics for the page: numbers to 6 digits, others by name."""
    made = dict[str, Any]()
    for name, value in row.items():
        number = logs.number(value)
        if number is not None:
            made[name] = (
                float(f"{number:.6g}") if math.isfinite(number) and name != "step" else number if math.isfinite(number) else str(value)
            )
    return made


class Listing:
    """The list of runs, and what changed in it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._known: dict[str, Mapping[str, Any]] | None = None
        self.cursor = "0"

    def look(self) -> list[tuple[str, Any]]:
        now: dict[str, Mapping[str, Any]] = {run.name: run.row() for run in self._folder.runs()}
        known, self._known = self._known, now
        if known is None:
            return [("rows", {"rows": list(now.values()), "all": True})]
        changed = [row for name, row in now.items() if known.get(name) != row]
        gone = [name for name in known if name not in now]
        return [("rows", {"rows": changed, "gone": gone})] if changed or gone else []


async def stream(look: Follower | Listing, stopping: Callable[[], bool], tick: float = TICK) -> AsyncIterator[bytes]:
    """Events until the page goes away or the server ends."""
    yield b"retry: 1000\n\n"
    quiet = 0.0
    while not stopping():
        found = await run_in_threadpool(look.look)
        for kind, content in found:
            body = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            yield f"id: {look.cursor}\nevent: {kind}\ndata: {body}\n\n".encode("utf-8", "replace")
        quiet = 0.0 if found else quiet + tick
        if quiet >= PULSE:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(tick)
