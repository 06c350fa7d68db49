"""`keel watch`: rules on a run that is over or still going, and tests of rules."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from keel.core.config import checked
from keel.core.errors import ConfigError, DataError, UserError
from keel.core.events import Event
from keel.core.hashing import stable_hash
from keel.evaluate.run_diagnosis import Symptom, diagnose
from keel.runs.columns import Columns, load
from keel.runs.directory import ABANDONED, METRICS, read_manifest
from keel.runs.durable import write_atomic
from keel.runs.environment import flatten
from keel.runs.logs import plain, read
from keel.watch.alerts.delivery import alert_sinks
from keel.watch.config import WatchConfig
from keel.watch.engine import Finding
from keel.watch.foreign import read_log
from keel.watch.heartbeat import OVER, Heartbeat, Pulse, Status, Tail
from keel.watch.replay import Replay, Replayed, replay, run_test
from keel.watch.rule_files import read_rules

STYLE = {"info": "", "warning": "yellow", "critical": "bold red"}


def settings_of(run: Path, rules: str) -> tuple[WatchConfig, dict[str, Any]]:
    """What a run is watched with: the rules of ``rules``, else its own, else the default ones; and its recipe by key path."""
    manifest = read_manifest(run) if run.is_dir() else None
    recipe: Mapping[str, Any] = (manifest or {}).get("config") or {}
    own: Mapping[str, Any] = (recipe.get("settings") or {}).get("watch") or {}
    if rules:
        read_rules(rules)  # mistakes in it are told with their place
        kept = {name: value for name, value in own.items() if name.startswith("max_")}
        return checked(WatchConfig, {**kept, "defaults": False, "files": [rules]}), flatten(recipe)
    return checked(WatchConfig, own) if own else WatchConfig(), flatten(recipe)


def run_watch(run: str, rules: str = "", json_file: str = "", console: Console | None = None) -> dict[str, Any]:
    """Replay rules on a run's log; print and return what they say."""
    path, out = Path(run), console or Console()
    log = read_log(path)
    config, recipe = settings_of(path, rules)
    result = replay(log.rows, config, recipe)
    abandoned = len(read(path / ABANDONED)) if path.is_dir() else 0
    first, last = log.rows[0][0], log.rows[-1][0]
    out.print(f"{log.path}: {log.form}, {result.steps} rows, steps {first} to {last}", markup=False, highlight=False, soft_wrap=True)
    _print(result, out)
    symptoms = symptoms_of(path, log.rows)
    _print_symptoms(symptoms, out)
    if log.left_out:
        out.print(f"{log.left_out} lines were left out: no row, or no step or number in them", highlight=False)
    if abandoned:
        out.print(f"{abandoned} steps that emergencies took back are not looked at ({ABANDONED})", highlight=False)
    summary = {
        **_summary(run, result),
        "symptoms": [s.to_json() for s in symptoms],
        "form": log.form,
        "left_out": log.left_out,
        "abandoned": abandoned,
    }
    _write(json_file, summary)
    return summary


def symptoms_of(run: Path, rows: Sequence[tuple[int, Mapping[str, float]]] | None = None) -> list[Symptom]:
    """What ails a run of RL, by its metrics; nothing for runs of Keel that are none. Another trainer's log is taken for one of RL where it
    has a reward. ``rows``: of its log, where they were read before."""
    manifest = read_manifest(run) if run.is_dir() else None
    if manifest is not None and manifest.get("verb") != "rl":
        return []
    if rows is None and manifest is not None:
        return diagnose(load(run / METRICS))  # columns are there already: it is quick in a long run too
    found = read_log(run).rows if rows is None else rows
    if manifest is None and not any("reward" in metrics for _, metrics in found):
        return []
    return diagnose(Columns.of_rows({"step": step, **metrics} for step, metrics in found))


def _print_symptoms(symptoms: Sequence[Symptom], console: Console) -> None:
    for symptom in symptoms:
        console.print(f"{symptom.name}: {symptom.evidence}", markup=False, highlight=False, soft_wrap=True, style="bold")
        for place, cause in enumerate(symptom.causes, 1):
            told = f"  {place}. {cause.name}: {cause.evidence}. {cause.remedy} ({cause.page})"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
        if not symptom.causes:
            console.print("  no cause that these metrics would show", highlight=False)


def _summary(run: str, result: Replayed) -> dict[str, Any]:
    return {
        "run": run,
        "steps": result.steps,
        "alarms": [asdict(finding) for finding in result.findings],
        "verdicts": [{"step": step, "action": action} for step, action in result.verdicts],
        "remarks": list(result.remarks),
    }


def _write(json_file: str, summary: Mapping[str, Any]) -> None:
    if json_file:
        write_atomic(Path(json_file), (json.dumps(plain(summary), ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def _print(result: Replayed, console: Console) -> None:
    if result.findings:
        table = Table("step", "level", "rule", "what", "page")
        for f in result.findings:
            style = "green" if f.state == "resolved" else STYLE[f.level]
            table.add_row(str(f.step), "over" if f.state == "resolved" else f.level, f.rule, _plain(f.text), f.page, style=style)
        console.print(table)
    else:
        console.print("no rule spoke")
    for remark in result.remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True, style="yellow")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def run_rule_tests(files: Sequence[str], console: Console | None = None) -> dict[str, Any]:
    """Run the tests of rule files. Raises UserError that lists what failed."""
    out = console or Console()
    if not files:
        raise ConfigError("keel watch test needs rule files", "keel watch test rules.yaml")
    problems: list[str] = []
    passed = 0
    for name in files:
        file = read_rules(name)
        if not file.tests:
            raise ConfigError(f"{name} has no tests", "write some under `tests:`; see docs/alarms.md")
        for test in file.tests:
            found = run_test(file, test)
            passed += not found
            problems += [f"{name}: {test.name}: {problem}" for problem in found]
    if problems:
        raise UserError(f"{len(problems)} differences from what tests expect\n" + "\n".join(f"  {p}" for p in problems))
    out.print(f"{passed} tests passed", highlight=False)
    return {"files": list(files), "passed": passed}


class Onlooker:
    """Follows a run: rules on each new row, and whether it lives."""

    def __init__(self, run: Path, rules: str, factor: float) -> None:
        self.run = run
        self._config, self._recipe = settings_of(run, rules)
        self.heart, self.tail = Heartbeat(run, factor), Tail(run)
        self.replay = Replay(self._config, self._recipe)
        self._arrivals: deque[float] = deque(maxlen=20)
        self._seen_at: float | None = None
        self._told: set[tuple[str, int, str]] = set()
        self.sinks = alert_sinks(self._config.alerts if not rules else settings_of(run, "")[0].alerts, run.name)

    def look(self, now: float) -> tuple[list[Finding], Pulse]:
        """What is new at ``now`` (seconds since 1970): findings that were not told before, and how the run is."""
        self._take(self.tail.read(), now)
        usual = median(self._arrivals) if len(self._arrivals) >= 3 else None
        pulse = self.heart.pulse(now, self.tail.changed_at, usual)
        if pulse.status in OVER:
            self._take(self.tail.read(last_too=True), now)
            pulse = self.heart.pulse(now, self.tail.changed_at, usual)
        new = [f for f in self.replay.result.findings if (f.key, f.step, f.state) not in self._told]
        self._told |= {(f.key, f.step, f.state) for f in new}
        return new, pulse

    def _take(self, rows: Sequence[tuple[int, Mapping[str, float]]], now: float) -> None:
        if self.tail.again:
            self.replay = Replay(self._config, self._recipe)
        for step, metrics in rows:
            self.heart.take(step, metrics)
            self.replay.take(step, metrics)
        if rows:
            if self._seen_at is not None:
                self._arrivals.append(now - self._seen_at)  # of as many as came together: some trainers write once in 500 steps
            self._seen_at = now

    def alert(self, pulse: Pulse, now: float) -> None:
        """Tell the run's receivers what the run cannot tell itself."""
        name = f"{stable_hash(str(self.run.resolve()), pulse.status, self.heart.step):016x}"
        event = Event("warning", self.heart.step, {"rule": pulse.status, "level": "critical"}, pulse.text, now, id=name)
        for sink in self.sinks:
            sink.handle(event)


def follow(
    run: str,
    rules: str = "",
    json_file: str = "",
    factor: float = 10.0,
    every: float = 5.0,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.time,
    console: Console | None = None,
) -> dict[str, Any]:
    """Look at a run every ``every`` seconds until it is over; say what its rules say, and when it stalls or is gone; with each alarm and at
    the end what ails it, each symptom once. Ctrl-C ends it."""
    path, out = Path(run), console or Console()
    if not path.exists():
        raise DataError(f"{run} is not there", "give a run directory or a log file")
    onlooker = Onlooker(path, rules, factor)
    before: Status = "running"
    ails: dict[str, Symptom] = {}
    try:
        while True:
            now = clock()
            found, pulse = onlooker.look(now)
            for f in found:
                style = "green" if f.state == "resolved" else STYLE[f.level]
                out.print(f"step {f.step}  {f.rule}  {f.text}", style=style, markup=False, highlight=False, soft_wrap=True)
            if onlooker.heart.step and (pulse.status in OVER or any(f.state == "firing" for f in found)):
                now_ails = {s.name: s for s in symptoms_of(path)}
                _print_symptoms([s for name, s in now_ails.items() if name not in ails], out)
                ails = {**ails, **now_ails}
            if pulse.status != before:
                grave = pulse.status in ("stalled", "killed")
                out.print(
                    f"{pulse.status}: {pulse.text}", style="bold red" if grave else "green", markup=False, highlight=False, soft_wrap=True
                )
                if grave:
                    onlooker.alert(pulse, now)
            if pulse.status in OVER:
                break
            before = pulse.status
            wait(every)
    finally:
        for sink in onlooker.sinks:
            sink.close()
    told = {"status": pulse.status, "said": pulse.text, "step": onlooker.heart.step, "symptoms": [s.to_json() for s in ails.values()]}
    summary = {**_summary(run, onlooker.replay.end()), **told}
    _write(json_file, summary)
    return summary
