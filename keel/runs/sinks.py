"""Where events go: the run's own files, the console, trackers. All sinks that print write to standard error, so
that standard output is free for results."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from keel.core.events import Event, Sink
from keel.runs import columns, logs
from keel.runs.config import TrackingConfig
from keel.runs.directory import EVENTS, METRICS, RunDir
from keel.runs.trackers.kinds import tracker_sinks

log = logging.getLogger("keel")

# What a person wants to see while it runs: label -> the metrics that can stand for it, the first one that is there.
SHOWN: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "loss/policy_avg", "train/loss"),
    "reward": ("reward", "objective/scores", "rewards/margins"),
    "acc": ("rewards/accuracies", "accuracy"),
    "kl": ("kl",),
    "kl/answer": ("kl_point", "objective/kl"),
    "tok/s": ("tokens_per_s",),
}
LINE = 6  # numbers that a line of the terminal holds
EVALUATED = tuple(
    f"eval/{name}"
    for name in (
        "loss",
        "mean_token_accuracy",
        "accuracy",
        "rewards/accuracies",
        "rewards/margins",
        "reward",
        "completions/mean_length",
        "completions/clipped_ratio",
        "completions/failed_ratio",
    )
)


def make_sinks(run: RunDir, config: TrackingConfig) -> list[Sink]:
    """The sinks of a run as its settings ask. Raises UserError when a tracker is asked for that is not installed."""
    own: list[Sink] = [JsonlSink(run), ConsoleSink(log_every=config.log_every, label=run.path.name)]
    return [*own, *tracker_sinks(run, config)]  # the files first: trackers follow them


def metrics_of(event: Event) -> dict[str, float]:
    """The numbers of a ``step`` or ``eval`` event."""
    metrics: Mapping[str, Any] = event.data.get("metrics", {})
    return {name: float(value) for name, value in metrics.items()}


class JsonlSink:
    """``metrics.jsonl``: one object a step, with that step's evaluation in it. ``events.jsonl``: everything else that happened.

    Non-finite numbers are the strings "NaN", "Infinity" and "-Infinity". ``at`` of an event is when it happened (UTC). A row that could not
    be written (a full disk) is written again in its place.
    """

    essential = True

    def __init__(self, run: RunDir) -> None:
        self._metrics, self._events = run.path / METRICS, run.path / EVENTS
        self._last: dict[str, Any] = {}
        self._offset = 0  # where the last row begins
        self._torn = False  # the row there may be half written
        self._unsealed = 0  # rows since blocks of columns were made

    def handle(self, event: Event) -> None:
        if event.kind in ("step", "eval"):
            self._write(event.step, metrics_of(event))
        if event.kind != "step":
            at = datetime.datetime.fromtimestamp(event.at, datetime.UTC).isoformat(timespec="milliseconds")
            named = {"number": event.number, "id": event.id} if event.number else {}
            row = {"kind": event.kind, "step": event.step, "at": at, **named, "message": event.message, **event.data}
            logs.append(self._events, [row])

    def _take_up(self) -> None:
        """The last row of a run that goes on: a test after the last step belongs to it, in whichever process it is made."""
        for start, line in logs.lines_backward(self._metrics):
            if line.endswith(b"\n") and (row := logs.parse(line)) is not None:
                self._last, self._offset = row, start
            return

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row, or put the numbers into the last one when it is of the same step."""
        if not self._last and not self._torn:
            self._take_up()
        row: dict[str, Any] = {"step": step, **metrics}
        size = self._metrics.stat().st_size if self._metrics.exists() else 0
        grows_last = self._last.get("step") == step and (self._torn or size == self._offset + len(logs.json_line(self._last)))
        if grows_last:
            row = self._last | row
        elif not self._torn:
            self._offset = size
        again, self._torn = grows_last or self._torn, True
        with self._metrics.open("rb+" if again and self._metrics.exists() else "ab") as file:
            file.seek(self._offset)
            file.truncate()
            file.write(logs.json_line(row))
        self._last, self._torn = row, False
        self._unsealed += not again
        if self._unsealed > columns.BLOCK:
            self._unsealed = 0
            self._seal()

    def _seal(self) -> None:
        """Columns are made for readers: where they cannot be written, readers make them again."""
        try:
            columns.seal(self._metrics)
        except OSError as error:
            log.debug("no columns are kept: %s", error)

    def close(self) -> None:
        self._last = {}


class ConsoleSink:
    """A progress bar with the numbers that matter on a terminal; plain lines, one every ``log_every`` steps, without one."""

    def __init__(self, stream: TextIO | None = None, log_every: int = 10, label: str = "") -> None:
        self._console = Console(file=stream or sys.stderr, emoji=False)
        self._log_every, self._label = log_every, label
        self._total, self._first = 0, 0
        self._first_done = (0, 0.0)  # number and time of the first step seen: it warms up, so the time left is counted from its end
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def handle(self, event: Event) -> None:
        if event.kind == "run_started":
            self._begin(event)
        elif event.kind == "step":
            self._step(event)
        elif event.kind == "eval":
            self._say(f"evaluation at step {event.step}: {evaluated(metrics_of(event))}")
        elif event.kind in ("stage_started", "stage_finished", "resumed", "interrupted", "phase") and event.message:
            self._say(event.message)
        elif event.kind in ("warning", "verdict", "emergency", "adjusted", "recovery", "resolved", "paused") and event.message:
            calm = event.kind in ("recovery", "resolved")
            grave = event.kind in ("verdict", "emergency") or event.data.get("level") == "critical"
            said = "alarm" if event.kind == "warning" and grave else event.kind
            page = f" ({event.data['page']})" if event.data.get("page") else ""
            self._say(f"{said}: {event.message}{page}", "green" if calm else "bold red" if grave else "yellow")
        if event.kind in ("run_finished", "interrupted", "paused"):
            self._stop()

    def _begin(self, event: Event) -> None:
        self._stop()
        self._total, self._first = int(event.data.get("total_steps", 0)), event.step
        self._first_done = (0, 0.0)
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, redirect_stdout=False)
            self._task = self._bar.add_task(escape(self._label), total=self._total or None, completed=event.step, numbers="")
            self._bar.start()

    def _step(self, event: Event) -> None:
        if self._first_done == (0, 0.0):
            self._first_done = (event.step, time.perf_counter())
        numbers = shown(metrics_of(event))
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, numbers=numbers)
        elif event.step % self._log_every == 0 or event.step in (self._first + 1, self._total):
            of = f"/{self._total}" if self._total else ""
            self._say(f"{self._label} step {event.step}{of}  {numbers}{self._time_left(event.step)}".strip())

    def _time_left(self, step: int) -> str:
        first, then = self._first_done
        if step <= first or self._total <= step:
            return ""
        seconds = round((time.perf_counter() - then) / (step - first) * (self._total - step))
        return f"  left {seconds // 60}:{seconds % 60:02d}"

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def close(self) -> None:
        self._stop()


def shown(metrics: Mapping[str, float]) -> str:
    """The numbers of a step that a person wants to see, in one line."""
    shown_kl = "kl/answer" if "kl" in metrics else ""  # one of the two is enough, and each says its unit
    found = {
        label: metrics[name]
        for label, names in SHOWN.items()
        if label != shown_kl
        for name in [next((n for n in names if n in metrics), "")]
        if name
    }
    return "  ".join(f"{label} {short(value)}" for label, value in found.items())


def evaluated(metrics: Mapping[str, float]) -> str:
    """The numbers of an evaluation that a person wants to see, in one line that says how many more the file has."""
    numbers = {name: value for name, value in metrics.items() if not name.startswith("time/")}
    wanted = (
        numbers
        if len(numbers) <= LINE
        else {name: numbers[name] for name in EVALUATED if name in numbers} or dict(list(numbers.items())[:LINE])
    )
    said = "  ".join(f"{name} {short(value)}" for name, value in wanted.items())
    more = len(numbers) - len(wanted)
    return f"{said}  ({more} more in metrics.jsonl)" if more else said


def short(value: float) -> str:
    """A number in about four characters: 0.0312, 1.25, 843, 1.2e-05."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
