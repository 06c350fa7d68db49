"""Logs of other trainers as rows of Keel's names, so that the same rules look at them. Sources of the names: docs/alarms.md."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from keel.core.errors import DataError
from keel.core.json_lines import lines_of
from keel.runs.directory import METRICS
from keel.watch.foreign_names import LLAMA_FACTORY, OPENRLHF, TINKER, TRL, VERL, groups_of_tinker, held_out_of_verl

Row = Mapping[str, Any]
Step = tuple[int, Mapping[str, float]]

_VERL_LINE = re.compile(r"\bstep:([0-9]{1,15}) - (.+)$")
_VERL_EVAL = ("val-core/", "val-aux/", "val/")


@dataclass(frozen=True, slots=True)
class Form:
    """A trainer's log: how a row of it is told, where the step stands, which names it has."""

    name: str
    fits: Callable[[Row], bool]
    step: tuple[str, ...]
    names: Mapping[str, str]
    evaluation: tuple[str, ...] = ()  # names that begin so are of evaluations
    instead: bool = False  # ``eval/`` stands in the place of that beginning, not before it
    derived: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None  # what follows from several numbers, or from one by a sum

    def row(self, row: Row) -> tuple[int | None, dict[str, float]]:
        """Step and numbers under Keel's names. A name of Keel's that several stand for takes the first of the table."""
        inner = row.get("data")
        numbers = {**row, **cast("Row", inner)} if isinstance(inner, Mapping) else row
        read = {name: value for name, raw in numbers.items() if name not in self.step and (value := _number(raw)) is not None}
        found: dict[str, float] = {}
        for name, meant in self.names.items():
            if meant not in found and name in read:
                found[meant] = read[name]
        for name, value in read.items():
            if name not in self.names:
                found[self._called(name)] = value
        if self.derived is not None:
            found = {**self.derived(read), **found}
        steps = (number for name in self.step if (number := _number(numbers.get(name))) is not None and math.isfinite(number))
        return next((int(number) for number in steps), None), found

    def _called(self, name: str) -> str:
        beginning = next((b for b in self.evaluation if name.startswith(b)), "")
        return f"eval/{name.removeprefix(beginning) if self.instead else name}" if beginning else name


def _begins(row: Row, *beginnings: str) -> bool:
    return any(str(name).startswith(beginnings) for name in row)


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: any(name in row for name in names)


# In the order in which they are tried.
FORMS: Sequence[Form] = (
    Form(
        "verl",
        lambda row: isinstance(row.get("data"), Mapping) or _begins(row, "actor/", "critic/score"),
        ("step",),
        VERL,
        _VERL_EVAL,
        derived=held_out_of_verl,
    ),
    Form(
        "tinker",
        lambda row: _begins(row, "env/all/", "optim/kl_sample", "progress/batch"),
        ("step", "progress/batch"),
        TINKER,
        derived=groups_of_tinker,
    ),
    Form("LLaMA-Factory", _has("current_steps"), ("current_steps",), LLAMA_FACTORY),
    Form("OpenRLHF", _has("actor_lr", "policy_loss", "ppo_clip_ratio"), ("global_step", "step"), OPENRLHF),
    Form("TRL", _has("learning_rate", "eval_loss", "train_runtime"), ("step",), TRL, ("eval_",), instead=True),
    Form("Keel", _has("step"), ("step",), {}),
)


@dataclass(frozen=True, slots=True)
class Log:
    """A log that was read: whose it is, its rows, and what of it could not be used."""

    path: Path
    form: str
    rows: tuple[Step, ...]
    left_out: int = 0  # lines that are no row, or say no step


def log_file(run: Path) -> Path:
    """The log in a run's folder, or the file itself. Raises DataError where there is none."""
    if run.is_file():
        return run
    if not run.is_dir():
        raise DataError(f"{run} is not there", "give a run directory or a log file")
    for name in (METRICS, "trainer_log.jsonl", "trainer_state.json", "log_history.json", "log_history.jsonl"):
        if (run / name).is_file():
            return run / name
    saved = {int(n): p for p in run.glob("checkpoint-*/trainer_state.json") if (n := p.parent.name.removeprefix("checkpoint-")).isdecimal()}
    if saved:
        return saved[max(saved)]
    stages = sorted(p.parent.name for p in run.glob(f"stages/*/{METRICS}"))
    if stages:
        raise DataError(
            f"{run} is a pipeline, and each stage has a log of its own", f"name one: {run}/stages/{stages[-1]} ({', '.join(stages)})"
        )
    raise DataError(f"{run} holds no log that is known", "give the file itself: metrics.jsonl, trainer_state.json, trainer_log.jsonl ...")


def read_log(run: Path) -> Log:
    """All rows of a log. Raises DataError where it holds none."""
    path = log_file(run)
    rows, torn = raw_rows(path.read_bytes(), path.suffix)
    form = form_of(rows)
    told = [form.row(_unprefixed(row)) for row in rows]
    del rows  # a long log is held once
    found = tuple(_joined(told))
    if not found:
        raise DataError(f"{path} holds no row with a step and a number", "give a log of Keel, TRL, verl, OpenRLHF, tinker or LLaMA-Factory")
    return Log(path, form.name, found, torn + sum(not usable(row) for row in told))


def raw_rows(data: bytes, suffix: str = ".jsonl") -> tuple[list[Row], int]:
    """The rows of a log as they stand there, and how many lines are none: JSON lines, a JSON file with ``log_history`` or a list, or the
    console lines of verl (``step:1 - name:value - ...``)."""
    if suffix == ".json":
        return _whole(data)
    rows: list[Row] = []
    torn = 0
    for line in lines_of(data.decode("utf-8", "replace")):
        row = _line(line)
        if row is not None:
            rows.append(row)
        torn += row is None and line.startswith("{")
    return rows, torn


def _whole(data: bytes) -> tuple[list[Row], int]:
    try:
        read: Any = json.loads(data)
    except (ValueError, RecursionError):
        return [], 1
    listed: Any = read.get("log_history", []) if isinstance(read, dict) else read
    rows = [cast("Row", row) for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    return rows, (len(listed) if isinstance(listed, list) else 1) - len(rows)


def _line(line: str) -> Row | None:
    if line.startswith("{"):
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return cast("Row", row) if isinstance(row, dict) else None
    match = _VERL_LINE.search(line)
    if match is None:
        return None
    pairs = (part.rpartition(":") for part in match[2].split(" - "))
    return {"step": int(match[1]), "data": {name: value for name, _, value in pairs if name}}


def form_of(rows: Sequence[Row]) -> Form:
    """Whose log it is, by the first row that tells."""
    for form in FORMS[:-1]:
        if any(form.fits(_unprefixed(row)) for row in rows[:50]):
            return form
    return FORMS[-1]


def steps_of(rows: Sequence[Row], form: Form) -> Iterator[Step]:
    """Step and metrics of each row that has both; rows of one step in a row become one."""
    return _joined(form.row(_unprefixed(row)) for row in rows)


def _joined(rows: Iterable[tuple[int | None, Mapping[str, float]]]) -> Iterator[Step]:
    last: Step | None = None
    for step, numbers in rows:
        if step is None or not numbers:
            continue
        if last is not None and last[0] == step:
            last = (step, {**last[1], **numbers})
            continue
        if last is not None:
            yield last
        last = (step, numbers)
    if last is not None:
        yield last


def usable(row: tuple[int | None, Mapping[str, float]]) -> bool:
    """Has a row a step and a number?"""
    return row[0] is not None and bool(row[1])


def _unprefixed(row: Row) -> Row:
    """Without the ``train/`` that trackers put before names."""
    return {str(name).removeprefix("train/"): value for name, value in row.items()}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except OverflowError:  # of more digits than a number has
        return math.inf if isinstance(value, int) and value > 0 else -math.inf
    except ValueError:
        return math.nan if str(value).lower() in ("null", "none") else None
