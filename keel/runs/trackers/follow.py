"""Trackers of experiments: they follow ``metrics.jsonl`` from a thread of their own. The file is the queue, so that a tracker which is
down, slow or hangs delays no step and misses none; what it has is noted beside the run, so that a resumed run sends what is missing.

A tracker holds the path that stands. Where the run went back and the tracker cannot forget steps, a new run of its begins, with all steps
up to there.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from keel.core.events import Event
from keel.runs import logs
from keel.runs.directory import EVENTS, METRICS
from keel.runs.durable import write_atomic

log = logging.getLogger("keel")

FOLDER = "trackers"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
FLUSH_S = 30.0  # at the end of the process


class Tracker(Protocol):
    """One path in a tracker. Everything may raise: it is done again."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


Open = Callable[[int, int], Tracker]  # number of rollbacks so far, and the last step that the tracker shall still have -> the path


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a tracker has: the steps up to ``sent`` of the path after ``rollback`` rollbacks; -1: nothing, -2: nothing is known."""

    rollback: int = 0
    sent: int = -2


class Following:
    """Brings a tracker up to date with the file. Without threads and clocks: whoever calls says when."""

    def __init__(self, name: str, run: Path, open_path: Open, forgets: bool) -> None:
        """``forgets``: the tracker can drop steps, so that a rollback needs no new run in it."""
        self.name, self.run, self.open_path, self.forgets = name, run, open_path, forgets
        self._file = run / FOLDER / f"{name}.json"
        self.cursor = self._read()
        self._tracker: Tracker | None = None
        self._noted = self.cursor
        self._holds_more = False  # steps that the run will do again or has given up

    def _read(self) -> Cursor:
        try:
            told: Mapping[str, Any] = json.loads(self._file.read_bytes())
            return Cursor(int(told["rollback"]), int(told["sent"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Cursor()

    def place(self, step: int, returns: Mapping[int, int]) -> None:
        """The run goes on from ``step``: at its start and after each rollback. ``returns``: the step that each rollback went back to, by
        its number; the tracker may not have heard of some."""
        known, rollback = self.cursor.sent > -2, max(returns, default=0)
        unheard = [back for number, back in returns.items() if number > self.cursor.rollback]
        went_back = bool(unheard) and known
        sent = -1 if went_back and not self.forgets else min(self.cursor.sent, step, *unheard) if known else step or -1
        if went_back or sent < self.cursor.sent:
            self._leave()
            self._holds_more = True
        self.cursor = Cursor(rollback, sent)

    def catch_up(self, upto: int | None) -> None:
        """Send what the tracker does not have, up to step ``upto`` (None: to the end). Raises whatever the tracker raises; then what it
        took is noted, and the next call goes on behind it."""
        before = self.cursor
        try:
            if self._holds_more and self._tracker is None:
                self._tracker = self.open_path(self.cursor.rollback, self.cursor.sent)
            self._holds_more = False
            for row in logs.rows_at_end(self.run / METRICS, lambda row: _step(row) > before.sent):
                step = _step(row)
                if upto is not None and step > upto:
                    break
                if self._tracker is None:
                    self._tracker = self.open_path(self.cursor.rollback, self.cursor.sent)
                metrics = {name: number for name, value in row.items() if name != "step" and (number := logs.number(value)) is not None}
                self._tracker.log(step, metrics)
                self.cursor = replace(self.cursor, sent=step)
        finally:
            if self.cursor != self._noted:
                self._note()

    def missing(self) -> int:
        """Steps that the tracker does not have."""
        return len(logs.rows_at_end(self.run / METRICS, lambda row: _step(row) > self.cursor.sent))

    def _note(self) -> None:
        self._file.parent.mkdir(exist_ok=True)
        write_atomic(self._file, json.dumps({"rollback": self.cursor.rollback, "sent": self.cursor.sent}).encode())
        self._noted = self.cursor

    def _leave(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:
                log.debug("tracker %s: the path that was left could not be closed: %s", self.name, error)

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()


def _step(row: Mapping[str, Any]) -> int:
    step = row.get("step", 0)
    return step if isinstance(step, int) else 0


def returns_of(run: Path) -> dict[int, int]:
    """The step that each rollback so far went back to, by its number."""
    found = (row for row in logs.rows_of(run / EVENTS) if row.get("kind") == "emergency" and "undone" not in row)
    told = ((row.get("rollback"), row.get("back_to")) for row in found)
    return {number: back for number, back in told if isinstance(number, int) and isinstance(back, int)}


class TrackerSink:
    """Takes events, and never waits: a thread does the rest. After a failure it is tried again, at longer and longer intervals."""

    def __init__(self, following: Following, flush_s: float = FLUSH_S, pause_s: float = FIRST_PAUSE_S) -> None:
        self.following, self.flush_s, self.pause_s = following, flush_s, pause_s
        self._changed = threading.Condition()
        self._places: list[tuple[int, Mapping[int, int]]] = []  # where the run went on, not yet taken in
        self._newest: int | None = None  # the row of this step may still grow
        self._seen: int | None = None  # of ``_newest``
        self._closing = False
        self._failures, self._last = 0, ""
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self.following.name

    def handle(self, event: Event) -> None:
        with self._changed:
            if event.kind == "run_started":
                self._places.append((event.step, returns_of(self.following.run)))
                self._newest = event.step
            elif event.kind == "emergency":
                back = int(event.data["back_to"])
                self._places.append((back, {int(event.data["rollback"]): back}))
                self._newest = back
            elif event.kind in ("step", "eval"):
                self._newest = event.step
            else:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        pause, in_a_row = 0.0, 0
        while True:
            with self._changed:
                if pause:
                    self._changed.wait_for(lambda: self._closing, pause)
                else:
                    self._changed.wait_for(lambda: self._closing or self._places or self._newest != self._seen)
                places, self._places = self._places, []
                closing, self._seen = self._closing, self._newest
                upto = None if closing else (self._newest or 0) - 1
            try:
                for step, returns in places:
                    self.following.place(step, returns)
                self.following.catch_up(upto)
                if closing:
                    self.following.close()
                    return
                pause, in_a_row = 0.0, 0
            except Exception as error:  # a tracker that is down must not cost a run
                self._failed(error)
                in_a_row += 1
                pause = min(self.pause_s * 2 ** (in_a_row - 1), LONGEST_PAUSE_S)
                if closing:
                    time.sleep(min(pause, self.flush_s / 8))

    def _failed(self, error: Exception) -> None:
        self._failures, self._last = self._failures + 1, f"{type(error).__name__}: {error}"
        if self._failures == 1:
            log.warning("tracker %s failed, the run goes on and tries it again: %s", self.name, self._last)

    def close(self) -> None:
        """Send what is missing, for ``flush_s`` seconds at most; say what is still missing then. A run that is started again sends it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(self.flush_s)
        if self._thread.is_alive():
            log.warning("tracker %s lacks %d steps, which are in %s", self.name, self.following.missing(), METRICS)
        elif self._failures:
            log.warning(
                "tracker %s failed %d times and has every step in the end; the last time: %s", self.name, self._failures, self._last
            )
