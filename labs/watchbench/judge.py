"""What rules and diagnosis say of recorded runs, beside what is true of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.evaluate.run_diagnosis import diagnose
from keel.runs.columns import Columns
from keel.watch.config import WatchConfig
from keel.watch.engine import Finding
from keel.watch.replay import replay
from labs.watchbench.plan import HEALTHY, Run
from labs.watchbench.truth import evaluations, ill_before, shows_at, took

Row = Mapping[str, float]
EVALUATION = "eval/reward"


@dataclass(frozen=True, slots=True)
class Expected:
    """The rules that name a sickness, the causes that are right, and how soon it should be named, in steps or evaluations."""

    rules: frozenset[str]
    causes: frozenset[str]
    delay: int | None = None
    unit: str = "steps"


def _expected(rules: str, causes: str, delay: int | None = None, unit: str = "steps") -> Expected:
    return Expected(frozenset(rules.split()), frozenset(c.strip() for c in causes.split(",")), delay, unit)


_KL = "kl kl-ppo kl-point kl-jump gradient-jump entropy-jump reward-plunge collapse clip clip-ppo runaway-held-out runaway-entropy"
_GAP = "held-out-gap gold-gap train-test-gap"
EXPECTED: Mapping[str, Expected] = {
    "explosion": _expected(_KL, "steps far too large, a gradient, steps too large", 5),
    "nan": _expected(
        "loss-non-finite reward-non-finite gradient-non-finite reward-failed", "rewards failed, a gradient that is no number", 5
    ),
    "dead": _expected("no-signal no-update", "no signal, nothing is updated", 5),
    "entropy": _expected("entropy entropy-fall entropy-pushed", "entropy", 10),
    "length": _expected(f"length-up {_GAP}", "length", 10),
    "format": _expected(_GAP, "a template", 2, "evaluations"),
    "keyword": _expected(_GAP, "repetition", 2, "evaluations"),
    "leak": _expected(_GAP, "training is judged otherwise", 2, "evaluations"),
    "proxy": _expected(_GAP, "KL too cheap, repetition", 2, "evaluations"),  # repeating what it likes is how this gold is lost
    "stale": _expected("stale sampler-apart", "stale weights"),
    "drift": _expected("prompts-drift", "other prompts"),
    "critic": _expected("critic", "the critic"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run: its alarms, whether and when it was named, what comes first among the causes."""

    run: Run
    took: bool  # of a healthy run: it fell ill by itself
    steps: int
    shows: int | None
    alarms: tuple[Finding, ...]  # above info, that began
    acting: tuple[str, ...]  # rules that would have acted
    named: int | None  # the step at which the first right rule spoke, once the sickness was in
    cause: str  # the first one of the diagnosis; empty without any
    symptom: str
    evaluated: tuple[int, ...]  # steps of evaluations
    ill_before: bool = False  # it had gone wrong by itself before the sickness was put in

    @property
    def sick(self) -> bool:
        return self.run.family != HEALTHY

    @property
    def well(self) -> bool:
        """Nothing was put in, and nothing went wrong by itself."""
        return not self.sick and not self.took

    @property
    def right_cause(self) -> bool:
        return self.sick and self.cause in EXPECTED[self.run.family].causes

    @property
    def delay(self) -> int | None:
        """From where the sickness shows to where it is named, in the family's unit; 0 where it was named before. None where it was not."""
        if self.named is None or self.shows is None:
            return None
        if EXPECTED[self.run.family].unit == "steps":
            return max(0, self.named - self.shows)
        return sum(self.shows < step <= self.named for step in self.evaluated)


def judge(stored: Mapping[str, Any], config: WatchConfig | None = None) -> Verdict:
    """A record as ``store.read`` gives it, replayed."""
    run: Run = stored["run"]
    rows: Sequence[Row] = stored["rows"]
    steps = [(int(row["step"]), {k: v for k, v in row.items() if k != "step"}) for row in rows]
    findings = replay(steps, config or WatchConfig()).findings
    alarms = tuple(f for f in findings if f.state == "firing" and f.level != "info")
    shows = shows_at(run, rows) if run.family != HEALTHY else None
    rules = EXPECTED[run.family].rules if run.family != HEALTHY else frozenset[str]()
    named = next((f.step for f in alarms if f.rule in rules and f.step > run.onset), None)
    symptoms = diagnose(Columns.of_rows(rows))
    first = next(((s.name, s.causes[0].name) for s in symptoms if s.causes), ("", ""))
    return Verdict(
        run,
        took(run, rows, stored["final"]),
        len(rows) - sum(row["step"] == 0 for row in rows),
        shows,
        alarms,
        tuple(f.rule for f in findings if f.state == "firing" and (f.act or f.would)),
        named,
        first[1],
        first[0] or next((s.name for s in symptoms), ""),
        tuple(step for step, _ in evaluations(rows, EVALUATION)),
        run.family != HEALTHY and ill_before(run, rows),
    )


def verdicts(stored: Iterable[Mapping[str, Any]], config: WatchConfig | None = None) -> list[Verdict]:
    """Of all records."""
    return [judge(row, config) for row in stored]
