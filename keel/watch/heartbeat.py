"""A run seen from outside: does it live? A killed process tells nobody; whoever looks on does."""

from __future__ import annotations

import datetime
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keel.runs import logs
from keel.runs.directory import EVENTS, MANIFEST, METRICS, SUMMARY
from keel.runs.lock import TELLS, holder
from keel.watch.foreign import Form, Step, form_of, log_file, raw_rows, steps_of

Status = Literal["running", "finished", "left", "stalled", "killed"]
OVER: tuple[Status, ...] = ("finished", "left", "killed")
SHORTEST_S = 30.0  # no run is called stalled sooner: a checkpoint or an evaluation takes its time
FEW, MANY = 3, 20  # steps that the usual time of a step is told by


class Tail:
    """Rows of a log as they come, each once. The last row is held back while the run may still add to it; after the file was rewritten (a
    run that went back) all rows come again. A JSON file is rewritten whenever something is added: there the rows themselves tell."""

    def __init__(self, run: Path) -> None:
        self._run, self._offset, self._file = run, 0, (0, 0)
        self._form: Form | None = None
        self._seen: tuple[float, ...] = ()  # of a JSON file: which one was read last
        self._given: list[int] = []  # of a JSON file: hashes of the rows that were given
        self.again = False  # the rows of the last call begin anew
        self.changed_at = 0.0  # when the file was last written, in seconds since 1970; 0: not known

    def read(self, last_too: bool = False) -> list[Step]:
        """New rows; ``last_too``: the run is over, nothing will be added."""
        if (self._run / MANIFEST).is_file() and not (self._run / METRICS).is_file():
            self.again, self._offset = self._offset > 0, 0
            return []  # a run of ours before its first step, for the first time or once more
        path = log_file(self._run)
        found = path.stat()
        self.changed_at = found.st_mtime
        if path.suffix == ".json":
            return self._whole(path, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, last_too))
        known = (found.st_dev, found.st_ino)
        self.again = self._offset > 0 and (known != self._file or found.st_size < self._offset)
        self._offset = 0 if self.again else self._offset
        self._file = known
        with path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        data = data[:end] if last_too else data[: data.rfind(b"\n", 0, max(0, end - 1)) + 1]
        self._offset += len(data)
        return self._steps(raw_rows(data, path.suffix)[0])

    def _whole(self, path: Path, seen: tuple[float, ...]) -> list[Step]:
        self.again = False
        rows, _ = raw_rows(path.read_bytes(), path.suffix) if seen != self._seen else ([], 0)
        if not rows:
            return []  # read before, or half written
        steps = self._steps(rows)
        hashes, before = [hash(repr(step)) for step in steps], len(self._given)
        self.again = hashes[:before] != self._given
        new = slice(0 if self.again else before, len(steps) if seen[-1] else -1)
        self._seen, self._given = seen, [*([] if self.again else self._given), *hashes[new]]
        return steps[new]

    def _steps(self, rows: Sequence[Mapping[str, Any]]) -> list[Step]:
        if self._form is None and rows:
            self._form = form_of(rows)
        return list(steps_of(rows, self._form)) if self._form is not None else []


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a run is, in a word and in a sentence."""

    status: Status
    text: str


class Heartbeat:
    """Says of a run whether it lives, by its lock, its last events and the time since its last step."""

    def __init__(self, run: Path, factor: float) -> None:
        """``factor``: so many times the usual step without a new one is a stall."""
        self._run, self._factor = run, factor
        self._seconds: deque[float] = deque(maxlen=MANY)
        self._longest_evaluation = 0.0
        self.step = 0

    def take(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of the run."""
        self.step = step
        if (seconds := metrics.get("time/step_s", metrics.get("timing_s/step", metrics.get("time/total")))) is not None:
            self._seconds.append(seconds)
        self._longest_evaluation = max(self._longest_evaluation, metrics.get("time/eval_s", 0.0))

    def patience(self, arrivals: float | None = None) -> float | None:
        """Seconds without a step after which a run is stalled; None while its usual step is not known. ``arrivals``: the usual time between
        two times that rows came, as the onlooker saw it, for logs that do not tell."""
        usual = statistics.median(self._seconds) if len(self._seconds) >= FEW else arrivals
        return None if usual is None else max(SHORTEST_S, self._factor * usual) + self._longest_evaluation

    def pulse(self, now: float, changed_at: float, arrivals: float | None = None) -> Pulse:
        """How the run is at ``now``; its log was last written at ``changed_at`` (seconds since 1970)."""
        ours = (self._run / MANIFEST).is_file()
        if ours:
            process = holder(self._run)  # before the summary: a run that ends in between has one
            if (self._run / SUMMARY).is_file():
                return Pulse("finished", f"the run finished at step {self.step}")
            if process is None and TELLS:
                return self._gone(changed_at)
        if ours and changed_at < (started := (self._run / MANIFEST).stat().st_mtime) <= now:
            return Pulse("running", f"started {_utc(started)}, no step since then; the last one before was {self.step}")
        waited, patience = now - changed_at, self.patience(arrivals)
        if patience is not None and waited > patience and changed_at > 0:
            since = f"no step since step {self.step}, {_utc(changed_at)}"
            return Pulse("stalled", f"{since}: {waited:.0f} s, and {patience:.0f} s are patience enough")
        return Pulse("running", f"running, step {self.step}")

    def _gone(self, changed_at: float) -> Pulse:
        """Nobody holds the run, and it has no summary."""
        again = "start the same command again to go on"
        events = [row for row in logs.read(self._run / EVENTS) if row.get("kind") not in ("step", "checkpoint", "eval")]
        last: Mapping[str, Any] = events[-1] if events else {}
        if last.get("kind") in ("interrupted", "paused") or (last.get("kind") == "verdict" and last.get("action") == "stop"):
            return Pulse("left", str(last.get("message", "")))
        at = f", {_utc(changed_at)}" if changed_at > 0 else ""
        return Pulse("killed", f"the process is gone and left no word: last step {self.step}{at}; {again}")


def _utc(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")
