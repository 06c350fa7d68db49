"""The runs below a folder, and what is held of those that somebody looks at."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.core.hashing import stable_hash
from keel.dash.events import Events
from keel.dash.metrics import PREVIEW, Metrics
from keel.dash.samples import Samples
from keel.runs import columns, logs
from keel.runs.directory import ABANDONED, EVENTS, MANIFEST, METRICS, OBSERVATIONAL, SAMPLES, SUMMARY, read_manifest, read_summary
from keel.runs.environment import flatten
from keel.runs.listing import INSIDE, headline, numbers_of
from keel.runs.lock import holder
from keel.runs.places import places

FRESH = 1.0  # seconds for which the list of folders is believed
HELD = 160 << 20  # bytes of columns that are held, of all runs together; those not asked for longest go first
AT_ONCE = 0.2  # seconds that a page waits for long files; then it gets previews, and the rest comes
MANY, SMALL = 8, 1 << 18  # runs together of which no file without columns above so many bytes is read at once


class Run:
    """One run folder, and what was read of it."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.metrics, self.abandoned = Metrics(path / METRICS), Metrics(path / ABANDONED)
        self.events, self.samples = Events(path / EVENTS), Samples(path / SAMPLES / "training.jsonl")
        self.preview: Metrics | None = None
        self._whole = False  # was everything read when the file was last looked at?
        self.lock, self._events_lock, self._samples_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._row: tuple[object, dict[str, Any]] = (None, {})
        self._parents: frozenset[Path] = frozenset()

    def read(self, together: int = 1) -> tuple[Metrics, float]:
        """The metrics as far as they can be had now, and how much of the file they stand for; 1 is all. A long file that is not read yet
        gives a preview. ``together``: so many runs are asked for at a time, and share the time."""
        if not self._later(together) and self.lock.acquire(timeout=AT_ONCE / together):
            try:
                self._whole = self.metrics.advance(AT_ONCE / together)
                self.abandoned.advance()
            finally:
                self.lock.release()
            if self._whole:
                self.preview = None
                return self.metrics, 1.0
        if self.preview is None:
            self.preview = Metrics.preview(self.path / METRICS, max(40, PREVIEW // together))
        return self.preview, min(0.999, self.metrics.share)

    def _later(self, together: int) -> bool:
        """Is the file left to the reader in the background: already, or because many are asked for and this one takes its time?"""
        if self.preview is not None:
            return not self._whole
        path = self.path / METRICS
        return together > MANY and self.metrics.cursor == 0 and _stamp(path)[1] > SMALL and not columns.has_block(path, 0)

    @property
    def cursor(self) -> str:
        """Bytes of metrics and events that the answers so far stand for."""
        return f"{self.metrics.cursor if self.preview is None else self.metrics.size}.{self.events.cursor}"

    def read_on(self) -> bool:
        """A piece of what is left; true when there is nothing more."""
        with self.lock:
            self._whole = self.metrics.advance(0.1)
            return self._whole

    def look(self) -> Events:
        with self._events_lock:
            return self.events.refresh()

    def answers(self) -> Samples:
        with self._samples_lock:
            return self.samples.refresh()

    def forget(self) -> None:
        """Let the columns go; they are read again when somebody asks."""
        self.metrics, self.preview, self._whole = Metrics(self.path / METRICS), None, False

    def row(self) -> dict[str, Any]:
        """The run in the list."""
        holds = holder(self.path) is not None
        at = (holds, *(_stamp(self.path / file) for file in (MANIFEST, SUMMARY, METRICS, EVENTS)))
        if self._row[0] != at:
            self._row = (at, self._made(holds))
        return self._row[1]

    def parents(self) -> frozenset[Path]:
        """Where the run that it follows may lie."""
        self.row()
        return self._parents

    def _made(self, holds: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.name, "verb": "?", "state": "broken", "step": 0, "numbers": [], "alarms": {}}
        try:
            manifest, summary = read_manifest(self.path) or {}, read_summary(self.path)
        except RunError as error:
            return row | {"why": error.message}
        self._parents = places(manifest, str(manifest.get("parent") or ""))
        last = logs.last_row(self.path / METRICS)
        events = self.look()
        step = last.get("step")
        starts = manifest.get("starts") or [{}]
        return row | {
            "verb": str(manifest.get("verb", "?")),
            "state": "finished" if summary is not None else "running" if holds else _left(events),
            "step": step if isinstance(step, int) else 0,
            "total": events.total_steps,
            "started": str(starts[0].get("at", "")) if isinstance(starts[0], dict) else "",
            "parent": str(manifest.get("parent") or ""),
            "seed": manifest.get("seed"),
            "group": group_of(manifest),
            "numbers": [[name, number_text(value)] for name, value in headline(_results(summary, last))],
            "alarms": dict(events.counts),
        }


def _results(summary: Mapping[str, Any] | None, last: Mapping[str, Any]) -> dict[str, float]:
    """Final numbers; those of the last evaluation under their own names."""
    numbers = numbers_of(summary, last)
    return {**numbers, **{k.removeprefix("last_eval."): v for k, v in numbers.items() if k.startswith("last_eval.")}}


def number_text(value: float) -> float | str:
    """For JSON, which knows no NaN."""
    return value if abs(value) < float("inf") else str(logs.plain(value))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _left(events: Events) -> str:
    """How a run that no process holds was left: asked to stop, paused by a rule, or without a word."""
    last = next((row["kind"] for row in reversed(events.rows) if row["kind"] != "resolved"), "")
    return last if last in ("interrupted", "paused") else "ended"


def group_of(manifest: Mapping[str, Any]) -> str:
    """The same for runs that differ in nothing but the seed and what is not trained."""
    config = {
        k: v for k, v in flatten(manifest.get("config") or {}).items() if not OBSERVATIONAL.search(k) and k.rpartition(".")[2] != "seed"
    }
    data = manifest.get("data") or {}
    return f"{stable_hash(str(manifest.get('verb')), json.dumps([config, data], sort_keys=True, default=str)):x}" if config else ""


class Folder:
    """All runs below ``root``. A run has its path from there as its name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs: dict[str, Run] = {}
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._looked = 0.0
        self._lock = threading.Lock()

    def runs(self) -> list[Run]:
        """Those that are there now."""
        with self._lock:
            if time.monotonic() - self._looked > FRESH or not self._runs:
                found = {self._name(path): path for path in sorted(_found(self.root))}
                self._runs = {name: self._runs.get(name) or Run(name, path) for name, path in found.items()}
                self._looked = time.monotonic()
            return list(self._runs.values())

    def get(self, name: str) -> Run | None:
        """The run of that name; its columns are held."""
        if name not in self._runs:
            self.runs()
        run = self._runs.get(name)
        if run is not None:
            with self._lock:
                self._asked[name] = time.monotonic()
                self._asked.move_to_end(name)
                self._forget()
        return run

    def unread(self) -> Iterator[Run]:
        """Runs that somebody looks at and whose files are not read to their ends."""
        for name in list(self._asked):
            run = self._runs.get(name)
            if run is not None and run.preview is not None and time.monotonic() - self._asked[name] < 30:
                yield run

    def _forget(self) -> None:
        held = {name: run.metrics.nbytes for name in self._asked if (run := self._runs.get(name)) is not None}
        for name in list(self._asked)[:-1]:
            if sum(held.values()) <= HELD:
                return
            run = self._runs.get(name)
            if run is not None and held.get(name, 0) > 1 << 20:
                run.forget()
            held.pop(name, None)
            del self._asked[name]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _found(root: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in INSIDE and not name.startswith(".")]
        if MANIFEST in files or METRICS in files:
            yield Path(folder)
