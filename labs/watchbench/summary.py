"""Verdicts of many runs -> shares with intervals: by family, by rule, and the goals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from keel.core.errors import UserError
from keel.evaluate.statistics import Interval
from labs.watchbench.intervals import rate, share
from labs.watchbench.judge import EXPECTED, Verdict
from labs.watchbench.plan import HACKING

STEPWISE, SLOWER = ("explosion", "nan", "dead"), ("length", "entropy")


@dataclass(frozen=True, slots=True)
class Family:
    """One sickness: runs, in how many it took, and of those: named, with the right cause first, named within the goal's delay."""

    name: str
    runs: int
    took: int
    named: Interval
    cause: Interval
    in_time: Interval | None
    delays: tuple[int, ...]
    unit: str


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule: healthy runs in which it speaks, alarms in 1,000 healthy steps, and of the runs with a sickness that it is for those in
    which it speaks once that is in, with the median of the delays."""

    name: str
    false_runs: Interval
    false_alarms: Interval  # in 1,000 steps
    families: tuple[str, ...]
    detected: Interval | None
    delay: float | None  # steps


def family(name: str, found: Sequence[Verdict]) -> Family:
    """What became of the runs of one sickness."""
    own = [v for v in found if v.run.family == name]
    sick = [v for v in own if v.took]
    delays = tuple(sorted(v.delay for v in sick if v.delay is not None))
    goal = EXPECTED[name].delay
    return Family(
        name,
        len(own),
        len(sick),
        share(sum(v.named is not None for v in sick), len(sick)),
        share(sum(v.right_cause for v in sick), len(sick)),
        share(sum(d <= goal for d in delays), len(sick)) if goal is not None else None,
        delays,
        EXPECTED[name].unit,
    )


def rule(name: str, found: Sequence[Verdict]) -> RuleRow:
    """What one rule said."""
    well = [v for v in found if v.well]
    steps = sum(v.steps for v in well)
    alarms = sum(f.rule == name for v in well for f in v.alarms)
    spoke = sum(any(f.rule == name for f in v.alarms) for v in well)
    families = tuple(family for family, expected in EXPECTED.items() if name in expected.rules)
    sick = [v for v in found if v.took and v.run.family in families]
    when = [next((f.step for f in v.alarms if f.rule == name and f.step > v.run.onset), None) for v in sick]
    late = [max(0, step - v.shows) for v, step in zip(sick, when, strict=True) if step is not None and v.shows is not None]
    detected = share(sum(step is not None for step in when), len(sick)) if sick else None
    return RuleRow(name, share(spoke, len(well)), rate(alarms, steps / 1000), families, detected, median(late) if late else None)


def goals(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Each goal with what was measured, and whether it is met by the estimate itself. Raises UserError without a healthy run."""
    well, sick = [v for v in found if v.well], [v for v in found if v.sick and v.took]
    if not well:
        raise UserError("no healthy run is among the records", "keel watchbench record --out FOLDER makes some")
    acting = share(sum(bool(v.acting) for v in well), len(well))
    warnings = rate(sum(len(v.alarms) for v in well), sum(v.steps for v in well) / 1000)
    rows = [
        ("acting false alarms in healthy runs", "0", acting, acting.mean == 0),
        ("warnings in 1,000 healthy steps", "at most 1", warnings, warnings.mean <= 1),
        _share("sickness named", 0.95, sick, lambda v: v.named is not None),
        _share("right cause first", 0.80, sick, lambda v: v.right_cause),
        _late("explosion, NaN, dead gradient: named within 5 steps", sick, STEPWISE),
        _late("length, entropy: within 10 steps", sick, SLOWER),
        _late("gaming: within 2 evaluations", sick, tuple(f for f in HACKING if f != "length")),
    ]
    return [{"what": what, "goal": goal, "found": asdict(value), "met": met} for what, goal, value, met in rows]


def _share(what: str, goal: float, of: Sequence[Verdict], right: Callable[[Verdict], bool]) -> tuple[str, str, Interval, bool]:
    found = share(sum(map(right, of)), len(of))
    return what, f"at least {goal:.0%}", found, found.mean >= goal


def _late(what: str, sick: Sequence[Verdict], families: Sequence[str]) -> tuple[str, str, Interval, bool]:
    """The share of the runs that are named in time; met where the median delay is within the goal and no more than one in twenty is not."""
    own = [v for v in sick if v.run.family in families]
    in_time = sum((d := v.delay) is not None and d <= (EXPECTED[v.run.family].delay or 0) for v in own)
    found = share(in_time, len(own))
    return what, "at least 95%", found, found.mean >= 0.95


def summary(found: Sequence[Verdict], rules: Sequence[str]) -> dict[str, Any]:
    """All tables as plain data."""
    well = [v for v in found if v.well]
    return {
        "healthy": len(well),
        "healthy_steps": sum(v.steps for v in well),
        "sick": sum(v.sick for v in found),
        "took": sum(v.sick and v.took for v in found),
        "ill_by_themselves": {v.run.name: sorted({f.rule for f in v.alarms}) for v in found if not v.sick and v.took},
        "goals": goals(found),
        "families": [asdict(family(name, found)) for name in EXPECTED if any(v.run.family == name for v in found)],
        "rules": [asdict(rule(name, found)) for name in rules],
        "diagnosed_healthy": dict(Counter(v.symptom or "nothing" for v in well)),
        "before_onset": before_onset(found),
    }


def before_onset(found: Sequence[Verdict]) -> dict[str, Any]:
    """Alarms of sick runs before they were made sick: more healthy steps, but for runs that fell ill by themselves before it (named)."""
    own = [v for v in found if v.sick and not v.ill_before]
    steps = sum(max(0, v.run.onset) for v in own)
    alarms = sum(f.step <= v.run.onset for v in own for f in v.alarms)
    ill = {v.run.name: sorted({f.rule for f in v.alarms if f.step <= v.run.onset}) for v in found if v.sick and v.ill_before}
    return {"steps": steps, "alarms": alarms, "per_1000": asdict(rate(alarms, steps / 1000)) if steps else None, "ill": ill}


def halves(found: Sequence[Verdict], tuned_on: Collection[str]) -> dict[str, list[Verdict]]:
    """All; those that were in view (by name) when rules and their limits were chosen; and those that came afterwards.

    A part without a healthy run (one's own records were never in view) is left out: it has no rate of false alarms.
    """
    parts = {
        "tuned on": [v for v in found if v.run.name in tuned_on],
        "kept apart": [v for v in found if v.run.name not in tuned_on],
    }
    return {"all": list(found)} | {name: part for name, part in parts.items() if any(v.well for v in part)}
