"""One run of a search: a real run of the stage, in a directory of its own, halted where the search looks at it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DivergedError
from keel.core.recipe_files import as_override
from keel.runs import evaluations, logs
from keel.runs.directory import EVENTS, METRICS
from keel.tune.compare import Outcome
from keel.tune.space import Point
from keel.verbs.run import run_verb

SIDE = "eval/"
BESIDE = ("reward", "kl", "objective/kl", "entropy", "completions/mean_length", "grad_norm")  # told of a run, chooses nothing


class InterruptedTrialError(Exception):
    """A signal asked the search to stop; it goes on the next time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings and a seed. ``number``: 0 are the recipe's own."""

    number: int
    point: Point
    seed: int

    @property
    def name(self) -> str:
        return f"trial-{self.number:03d}-seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains trials. ``recipe``: the file that all of them start from, ``overrides`` come on top."""

    verb: str
    recipe: Path
    overrides: Sequence[str]
    folder: Path  # of the runs
    measure: str

    def advance(self, trial: Trial, steps: int, whole: int) -> dict[str, Any]:
        """Train to ``steps`` of ``whole``, or on to there. Returns a row: what the measure is, what stands beside it, why the run ended
        sooner. Raises InterruptedTrialError."""
        path = self.folder / trial.name
        own = [as_override(key, value) for key, value in trial.point.items()]
        halt = [f"loop.pause_at={steps}"] if steps < whole else []
        ended = ""
        try:
            summary = run_verb(self.verb, self.recipe, [*self.overrides, *own, f"seed={trial.seed}", f"run_dir={path}", *halt])
            if summary.get("interrupted"):
                if not summary.get("paused"):
                    raise InterruptedTrialError
                ended = "" if summary["step"] >= steps else str(summary["paused"])
        except DivergedError as error:
            ended = error.message
        last = self._last_evaluation(path, ended)
        told = {"trial": trial.number, "seed": trial.seed, "steps": steps, "run": path.name, "ended": ended}
        beside = {name: logs.number(last[name]) for name in BESIDE if name in last}
        return {**told, "at": last.get("step"), "value": logs.number(last.get(self.measure)), "beside": beside, "alarms": alarms(path)}

    def outcome(self, row: Mapping[str, Any]) -> Outcome:
        """The outcome that a row of ``advance`` tells of."""
        if row["ended"]:
            return Outcome(math.nan, {}, row["ended"])
        name = self.measure.removeprefix(SIDE)
        got = evaluations.read(self.folder / row["run"], "eval", row["at"])
        value = logs.number(row["value"])
        return Outcome(math.nan if value is None else value, {p: of[name] for p, of in got.items() if name in of})

    def _last_evaluation(self, path: Path, ended: str) -> Mapping[str, Any]:
        """The newest row with the measure. Raises ConfigError where a run that did not end early has none."""
        seen: set[str] = set()
        for _, line in logs.lines_backward(path / METRICS):
            row = logs.parse(line) or {}
            if self.measure in row:
                return row
            seen |= {name for name in row if name.startswith(SIDE)}
        if ended:
            return {}
        there = ", ".join(sorted(seen)) or "none: is there held-out data?"
        raise ConfigError(f"{path}: no evaluation reported {self.measure!r} (the setting `measure`)", f"evaluations report: {there}")


def alarms(path: Path) -> list[str]:
    """The rules above level info that spoke in a run."""
    rows = [row for row in logs.rows_of(path / EVENTS) if row.get("kind") in ("warning", "verdict") and row.get("level") != "info"]
    return sorted({str(row["rule"]) for row in rows if row.get("rule")})
