"""Rules on a run that is over, or on made-up series: what they would have said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.core.errors import ConfigError
from keel.watch.config import WatchConfig
from keel.watch.engine import Finding, Watch
from keel.watch.rule_files import Expected, RuleFile, RuleTest

KINDS = ("step", "eval", "test")
Step = tuple[int, Mapping[str, float]]  # step, all its metrics
_ITEM = re.compile(
    r"(?P<start>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?[Nn]a[Nn]|[+-]?[Ii]nf|_)(?P<by>[+-](?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)?(?:x(?P<more>\d+))?$"
)
MOST = 1_000_000  # values of a made-up series


@dataclass(slots=True)
class Replayed:
    """What rules said: findings, in order, and remarks on the rules themselves."""

    findings: list[Finding] = field(default_factory=list[Finding])
    remarks: list[str] = field(default_factory=list[str])
    steps: int = 0
    verdicts: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])  # step, what would have been done


class Replay:
    """Rules that look at a run's rows one after the other, as the run did."""

    def __init__(self, config: WatchConfig, settings: Mapping[str, Any] | None = None) -> None:
        self.result = Replayed()
        self.watch = Watch(config, self.result.findings.append, settings, self.result.remarks.append)
        self.watch.begin()

    def take(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step's row: its own metrics first, then those of its evaluation, then those of its test."""
        for kind in KINDS:
            part = {name: value for name, value in metrics.items() if kind_of(name) == kind}
            if part:
                verdict = self.watch.check(step, part)
                if verdict.action != "continue":
                    self.result.verdicts.append((step, verdict.action))
        self.result.steps += 1

    def end(self) -> Replayed:
        """The result, with what could not be judged at all."""
        self.result.remarks += self.watch.unheard()
        return self.result


def kind_of(name: str) -> str:
    """What reports a metric of this name: a step, its evaluation, or the test at the end."""
    if name.startswith("eval/") or name == "time/eval_s":
        return "eval"
    return "test" if name.startswith("test/") else "step"


def replay(rows: Iterable[Step], config: WatchConfig, settings: Mapping[str, Any] | None = None) -> Replayed:
    """What the rules of ``config`` say of all ``rows``."""
    run = Replay(config, settings)
    for step, metrics in rows:
        run.take(step, metrics)
    return run.end()


def series(text: str) -> list[float | None]:
    """The values of a made-up series; None for a step without one. Raises ConfigError for what cannot be read."""
    values: list[float | None] = []
    for item in text.split():
        match = _ITEM.match(item)
        if match is None or (match["start"] == "_" and match["by"]):
            raise ConfigError(f"a series of a test: cannot read {item!r}", "write values as 1 2.5 _ NaN Inf, 1x4, or 1+2x3")
        more = int(match["more"] or 0)
        if len(values) + more >= MOST:
            raise ConfigError(f"a series of a test has more than {MOST} values: {item!r}", "make it shorter")
        if match["start"] == "_":
            values += [None] * (more + 1)
        else:
            values += [float(match["start"]) + i * float(match["by"] or 0) for i in range(more + 1)]
    return values


def steps_of(test: RuleTest) -> list[Step]:
    """A test's series as rows, from step 1 on."""
    read = {name: series(text) for name, text in test.series.items()}
    length = max((len(values) for values in read.values()), default=0)
    rows: list[Step] = []
    for i in range(length):
        rows.append((i + 1, {n: v for n, values in read.items() if i < len(values) and (v := values[i]) is not None}))
    return rows


def alarms(findings: Sequence[Finding]) -> list[Expected]:
    """Findings as a test writes them: where each alarm begins and where it is over."""
    found: list[Expected] = []
    keys: list[str] = []
    for finding in findings:
        if finding.state == "firing":
            found.append(Expected(rule=finding.rule, step=finding.step))
            keys.append(finding.key)
        else:
            last = max(i for i, key in enumerate(keys) if key == finding.key)
            found[last] = found[last].model_copy(update={"resolved": finding.step})
    return found


def run_test(file: RuleFile, test: RuleTest) -> list[str]:
    """What differs from what the test expects, in words; empty where nothing does."""
    config = WatchConfig(defaults=False, rules=file.rules)
    found = alarms(replay(steps_of(test), config, test.settings).findings)
    wanted = list(test.expect)
    problems: list[str] = []
    for alarm in found:
        if alarm in wanted:
            wanted.remove(alarm)
        else:
            problems.append(f"not expected: {in_words(alarm)}")
    return [f"expected, and not there: {in_words(alarm)}" for alarm in wanted] + problems


def in_words(alarm: Expected) -> str:
    """``kl at step 7, over at step 9``."""
    over = f", over at step {alarm.resolved}" if alarm.resolved is not None else ""
    return f"{alarm.rule} at step {alarm.step}{over}"
