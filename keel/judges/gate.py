"""The gate: what a judge's report must show before it labels, rewards or scores. Thresholds are settings, each with its reason.

A judge that fails, or has no report, is refused. Whoever knows better names it (`override: NAME`), and the name stands in the manifest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from keel.core.config import Section, checked
from keel.core.errors import ConfigError
from keel.judges.ask import Judge

SCHEMA = 1


class GateConfig(Section):
    """What a judge must show. Estimates are held against the thresholds, not the ends of their intervals: the numbers that are asked for
    keep intervals narrow enough."""

    least_pairs: int = Field(
        default=50,
        ge=1,
        description="Pairs that both the labels and the judge decide, and pairs of several people before they stand for people: of fewer "
        "no rate can be told from a coin.",
    )
    below_people: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="How far it may agree less than a person who is left out, on decided pairs of several people: what a label costs in "
        "accuracy must be won back by their number.",
    )
    least_agreement: float = Field(
        default=0.65,
        ge=0,
        le=1,
        description="Agreement on decided pairs that have one label, so that no person can be left out, or on all of them where fewer "
        "than `least_pairs` have several: two in three is what people reach among themselves on hard pairs.",
    )
    order_flip: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Decided pairs whose verdict turns with the order: above, the mean of both orders is often a tie.",
    )
    injected: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Verdicts that an injected demand turns, beyond those that as much calm text turns: training finds whatever works.",
    )
    hollow: float = Field(
        default=0.0, ge=0, le=1, description="Hollow answers scored as well as real ones: a policy needs only one that is rewarded."
    )
    failures: float = Field(
        default=0.1, ge=0, le=1, description="Calls without a verdict: those left are then no fair sample, and no number is given above it."
    )
    constant: float = Field(
        default=0.98,
        gt=0.5,
        le=1,
        description="Calls that name the same place (first shown, second shown, tie): such a judge does not read.",
    )


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the gate. ``value`` None: it could not be measured, which is no pass."""

    name: str
    value: float | None
    limit: float
    passed: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def decide(report: Mapping[str, Any], config: GateConfig) -> list[Check]:
    """The gate's lines for a report of `keel judge report`."""
    m, reasons = report["measures"], {name: str(f.description) for name, f in GateConfig.model_fields.items()}

    def rate(name: str, key: str = "mean") -> float | None:
        return None if m.get(name) is None else float(m[name][key])

    def at_most(name: str, value: float | None, limit: float) -> Check:
        return Check(name, value, limit, value is not None and value <= limit + 1e-12, reasons[name])

    def at_least(name: str, value: float | None, limit: float) -> Check:
        return Check(name, value, limit, value is not None and value >= limit - 1e-12, reasons[name])

    found = [at_least("least_pairs", rate("agreement_decided", "cases") or 0.0, config.least_pairs)]
    # each pair is answered for: by people who are left out where enough pairs have several, by the labels themselves elsewhere
    beside = (rate("people_gap", "pairs") or 0.0) >= config.least_pairs
    gap = rate("people_gap")
    if beside and gap is not None:
        found.append(at_most("below_people", -gap, config.below_people))
    if not beside or (rate("agreement_single", "cases") or 0.0) >= config.least_pairs:
        value = rate("agreement_single" if beside else "agreement_decided")
        found.append(at_least("least_agreement", value, config.least_agreement))
    found.append(at_most("order_flip", rate("order_flip"), config.order_flip))
    found.append(at_most("failures", rate("failures"), config.failures))
    found.append(at_most("constant", rate("same_place"), config.constant))
    injected, hollow = report.get("injected") or {}, report.get("hollow") or {}
    turned = None if injected.get("excess") is None else max(0.0, injected["excess"]["mean"])
    found.append(at_most("injected", turned, config.injected))
    found.append(at_most("hollow", None if hollow.get("all") is None else hollow["all"]["mean"], config.hollow))
    return found


def passed(checks: list[Check]) -> bool:
    return all(check.passed for check in checks)


def admit(judge: Judge, report: str, override: str, what: str) -> dict[str, Any]:
    """What the manifest is told of a judge that is to be ``what`` (a labeller, a reward, a scorer). Raises ConfigError for one without a
    passed report of this very judge, unless ``override`` is its name."""
    why, told = _refusal(judge, report)
    if override and override != judge.name:
        raise ConfigError(f"override: {override!r} is not the judge's name, which is {judge.name!r}", "name the judge that is let through")
    if why and override != judge.name:
        fix = f"keel judge report --labels FILE --judge {judge.name} --json REPORT, or override: {judge.name} to take it as it is"
        raise ConfigError(f"judge {judge.name} may not be {what}: {why}", fix)
    return told | {
        "judge": judge.name,
        "identity": judge.identity,
        "as": what,
        "passed": not why,
        "override": bool(why),
        "refused_for": why,
    }


def read_report(path: str) -> dict[str, Any]:
    """A report that `keel judge report` wrote. Raises ConfigError."""
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no report of a judge: {error}", "keel judge report --json FILE writes one") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not _whole(found):
        raise ConfigError(f"{path}: no report of a judge, or of another version", "write it again with keel judge report")
    return found


def _whole(found: Mapping[str, Any]) -> bool:
    """Has it all that the gate reads?"""
    parts = [found.get(name) for name in ("judge", "gate", "measures", "settings")]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(found["judge"].get("identity"), str):
        return False
    checks = found["gate"].get("checks")
    return isinstance(checks, list) and all(isinstance(c, dict) and set(Check.__slots__) <= set(c) for c in checks)


def _refusal(judge: Judge, report: str) -> tuple[str, dict[str, Any]]:
    """Why it may not ("" = it may), and what its report says of it."""
    if not report:
        return "it has no report", {}
    found = read_report(report)
    written = found["gate"]["checks"]
    told = {"report": report, "checks": written}
    if found["judge"]["identity"] != judge.identity:
        return f"the report {report} is of another judge or of other settings of it", told
    checks = _checks_of(found, report)
    unasked = [c.name for c in checks if c.name not in {c["name"] for c in written}]
    if unasked:
        why = f"the report {report} is of an older gate, which did not check {', '.join(unasked)}; write it again with keel judge report"
        return why, told
    lost = [c.to_json() for c in checks if not c.passed]
    lost += [c for c in written if not c["passed"] and c["name"] not in {c["name"] for c in lost}]
    if not lost:
        return "", told
    values = ", ".join(f"{c['name']} {_shown(c['value'])} (limit {c['limit']:g})" for c in lost)
    return f"its report fails: {values}", told


def _checks_of(found: Mapping[str, Any], report: str) -> list[Check]:
    """The lines that today's gate has for the report's numbers, under the limits that the report was made with. Raises ConfigError."""
    try:
        return decide(found, checked(GateConfig, found["settings"]["gate"]))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        why = f"{report}: no report of a judge that today's gate can read ({type(error).__name__}: {error})"
        raise ConfigError(why, "write it again with keel judge report") from None


def _shown(value: float | None) -> str:
    return "not measured" if value is None or not math.isfinite(value) else f"{value:.3g}"
