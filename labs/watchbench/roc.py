"""How detection and false alarms of a rule change with its limit: all recorded runs replayed for each of several limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.evaluate.statistics import Interval
from keel.watch.config import Rule, WatchConfig
from keel.watch.replay import replay
from keel.watch.rule_files import resolve
from labs.watchbench.intervals import share
from labs.watchbench.plan import HEALTHY
from labs.watchbench.truth import took


@dataclass(frozen=True, slots=True)
class Sweep:
    """The text in a rule's condition that is its limit, what to put there, and the sicknesses that it is for."""

    limit: str
    values: tuple[float, ...]
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A rule with one limit: the share of the sick runs that it names, and of the healthy ones in which it speaks."""

    value: float
    shipped: bool
    detected: Interval
    false: Interval


def with_limit(rule: Rule, limit: str, value: float) -> Rule:
    """The rule with another limit. Raises ValueError where its condition does not have that text exactly once."""
    if rule.condition.count(limit) != 1:
        raise ValueError(f"rule {rule.name!r}: {limit!r} stands {rule.condition.count(limit)} times in {rule.condition!r}")
    head, tail = rule.condition.split(limit)
    kept = limit.rpartition(" ")[0]  # all but the number
    return rule.model_copy(update={"expr": f"{head}{kept} {value:g}{tail}".strip(), "metric": "", "always": False, "act": ""})


def curve(name: str, sweep: Sweep, stored: Sequence[Mapping[str, Any]]) -> list[Point]:
    """All points of a rule, the shipped limit among them."""
    (rule,) = (r for r in resolve(WatchConfig()) if r.name == name)
    shipped = float(sweep.limit.rpartition(" ")[2])
    ill = {row["run"].name for row in stored if took(row["run"], row["rows"], row["final"])}
    well = [row for row in stored if row["run"].family == HEALTHY and row["run"].name not in ill]
    sick = [row for row in stored if row["run"].family in sweep.families and row["run"].name in ill]
    points: list[Point] = []
    for value in sorted({*sweep.values, shipped}):
        config = WatchConfig(defaults=False, rules=(with_limit(rule, sweep.limit, value),))
        hits = sum(_speaks(row, config) for row in sick)
        wrong = sum(_speaks(row, config) for row in well)
        points.append(Point(value, value == shipped, share(hits, len(sick)), share(wrong, len(well))))
    return points


def _speaks(stored: Mapping[str, Any], config: WatchConfig) -> bool:
    """After the sickness was put in, in a healthy run at any step."""
    rows = [(int(row["step"]), {k: v for k, v in row.items() if k != "step"}) for row in stored["rows"]]
    return any(f.state == "firing" and f.step > stored["run"].onset for f in replay(rows, config).findings)
