"""The rows of an experiment as units in the order in which they came: a prompt with all its verdicts, a user with all outcomes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.json_lines import lines_of
from keel.evaluate.ab.config import AbConfig, GuardConfig
from keel.evaluate.compare import PromptAnswers
from keel.evaluate.statistics import pair_score

Row = Mapping[str, Any]
_WORDS = {"win": 1.0, "loss": 0.0, "tie": 0.5, "both": 0.5, "neither": 0.5}


@dataclass(slots=True)
class Unit:
    """One independent unit. Offline ``treated`` is None, ``value`` the treatment's share in [0, 1] and a guard's value the difference;
    online they are the unit's own means. A value that is better is higher, also for guards."""

    key: str
    treated: bool | None
    values: list[float] = field(default_factory=list[float])
    guards: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def value(self) -> float:
        return math.fsum(self.values) / len(self.values)

    def guard(self, name: str) -> float | None:
        """Mean of a guard's values; None where the unit has none."""
        found = self.guards.get(name)
        return math.fsum(found) / len(found) if found else None


@dataclass(frozen=True, slots=True)
class Units:
    """All units, and what was not used: outcomes after a unit had settled, units that have too few, users that were in both arms."""

    units: tuple[Unit, ...]
    online: bool
    rows: int
    later: int = 0
    waiting: int = 0
    both_arms: tuple[str, ...] = ()


def read_units(path: Path, config: AbConfig) -> Units:
    """Read JSONL. Raises DataError that names line and field for a row that says nothing."""
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "give a JSONL file; docs/ab.md says what stands in it") from None
    rows: list[tuple[str, Row]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: broken JSON: {error}", "one JSON object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a row must be a JSON object, is {type(row).__name__}")
        rows.append((f"{path}:{number}", row))
    if not rows:
        raise DataError(f"{path}: no rows", "give paired verdicts or assigned outcomes; docs/ab.md")
    return gather(rows, config)


def gather(rows: Sequence[tuple[str, Row]], config: AbConfig) -> Units:
    """Rows, each with its place, as units."""
    online = [("arm" in row) for _, row in rows]
    if any(online) != all(online):
        where = rows[online.index(not online[0])][0]
        raise DataError(f"{where}: some rows have the field arm and some have not", "assigned outcomes have one, paired verdicts none")
    return _online(rows, config) if online[0] else _offline(rows, config)


def _settled(found: Mapping[str, Unit], settle: int | None, rows: int, online: bool, both: Iterable[str] = ()) -> Units:
    """Units whose value stands. What comes after that changes nothing: a look once taken stays as it was."""
    later = waiting = 0
    units: list[Unit] = []
    for unit in found.values():
        if settle is not None and len(unit.values) < settle:
            waiting += 1
            continue
        if settle is not None:
            later += len(unit.values) - settle
            unit.values = unit.values[:settle]
            unit.guards = {name: values[:settle] for name, values in unit.guards.items()}
        units.append(unit)
    return Units(tuple(units), online, rows, later, waiting, tuple(both))


def _offline(rows: Sequence[tuple[str, Row]], config: AbConfig) -> Units:
    found: dict[str, Unit] = {}
    said: dict[str, tuple[str, Any]] = {}  # what each id stands for, where it is told
    for where, row in rows:
        key = row.get("prompt_id", row.get("prompt"))
        if not isinstance(key, str | int):
            raise DataError(f"{where}: no prompt_id", "verdicts of one prompt hang together: each row names its prompt")
        place, prompt = said.setdefault(str(key), (where, row["prompt"])) if "prompt" in row else (where, None)
        if "prompt" in row and prompt != row["prompt"]:
            raise DataError(f"{where}: prompt_id {key!r} stands for another prompt at {place}", "give every prompt an id of its own")
        unit = found.setdefault(str(key), Unit(str(key), None))
        if "before" in row and "after" in row:
            pair, share = _scored(where, row, config)
        else:
            pair, share = None, _share(where, row, config)
        unit.values.append(1 - share if config.better == "lower" else share)
        for guard in config.guards:
            old, new = _guard_pair(where, row, guard, pair, config)
            unit.guards.setdefault(guard.name, []).append(new - old if guard.better == "higher" else old - new)
    return _settled(found, config.settle, len(rows), False)


def _scored(where: str, row: Row, config: AbConfig) -> tuple[PromptAnswers, float]:
    try:
        pair = PromptAnswers.from_row(row)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: no row of samples/evaluation.jsonl: {error!r}") from None
    before, after = ([v for a in side if (v := a.score(config.scorer)) is not None] for side in (pair.before, pair.after))
    if not before or not after:
        raise DataError(f"{where}: no score of {config.scorer} on both sides", "name another one: scorer=NAME")
    return pair, pair_score(before, after)


def _share(where: str, row: Row, config: AbConfig) -> float:
    name = config.outcome or "verdict"
    value = row.get(name)
    if isinstance(value, str):
        known = _WORDS | {config.treatment: 1.0, config.control: 0.0}
        if value in known:
            return known[value]
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise DataError(
        f"{where}: {name} is {value!r}",
        f"it is {config.treatment!r}, {config.control!r} or 'tie' (which arm's answer is better), or the treatment's share from 0 to 1",
    )


def _guard_pair(where: str, row: Row, guard: GuardConfig, pair: PromptAnswers | None, config: AbConfig) -> tuple[float, float]:
    name = guard.field or guard.name
    if pair is not None:
        sides = []
        for side in (pair.before, pair.after):
            values = [float(a.length) if name == "length" else a.score(name) for a in side]
            sides.append([v for v in values if v is not None])
        if all(sides):
            old, new = (math.fsum(values) / len(values) for values in sides)
            return _in_range(where, old, guard), _in_range(where, new, guard)
    value = row.get(name)
    if isinstance(value, Mapping):
        both = (value.get(config.control), value.get(config.treatment))
        if all(isinstance(v, int | float) and math.isfinite(v) for v in both):
            return _in_range(where, float(both[0]), guard), _in_range(where, float(both[1]), guard)  # type: ignore[arg-type]
    raise DataError(
        f"{where}: guard {guard.name}: {name} is {value!r}", f"give both arms' numbers: {{{config.control}: 1, {config.treatment}: 2}}"
    )


def _in_range(where: str, value: float, guard: GuardConfig) -> float:
    if guard.range is not None and not guard.range[0] <= value <= guard.range[1]:
        raise DataError(f"{where}: guard {guard.name}: {value:g} is outside of its range {list(guard.range)}", "widen the range")
    return value


def _online(rows: Sequence[tuple[str, Row]], config: AbConfig) -> Units:
    found: dict[str, Unit] = {}
    both: dict[str, None] = {}
    arms = {config.control: False, config.treatment: True}
    name = config.outcome or "outcome"
    low, high = config.range
    for where, row in rows:
        user, arm, value = row.get("user"), row.get("arm"), row.get(name)
        if not isinstance(user, str | int) or isinstance(user, bool):
            raise DataError(f"{where}: no user", "outcomes of one user hang together: each row names its user")
        if arm not in arms:
            raise DataError(f"{where}: arm is {arm!r}", f"the arms are {config.control!r} and {config.treatment!r}")
        if isinstance(value, bool):
            value = float(value)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise DataError(f"{where}: {name} is {value!r}", f"a number from {low:g} to {high:g} (range)")
        unit = found.setdefault(str(user), Unit(str(user), arms[arm]))
        if unit.treated is not arms[arm]:
            both[str(user)] = None
        value = (float(value) - low) / (high - low)
        unit.values.append(1 - value if config.better == "lower" else value)
        for guard in config.guards:
            got = row.get(guard.field or guard.name)
            if isinstance(got, bool) or not isinstance(got, int | float) or not math.isfinite(got):
                raise DataError(f"{where}: guard {guard.name}: {guard.field or guard.name} is {got!r}", "every row has a number there")
            got = _in_range(where, float(got), guard)
            unit.guards.setdefault(guard.name, []).append(got if guard.better == "higher" else -got)
    for user in both:  # what they saw of one arm changes what they say of the other
        del found[user]
    settle = config.settle if config.settle is not None or config.plan is not None else 1
    return _settled(found, settle, len(rows), True, both)
