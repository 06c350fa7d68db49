"""The report on a judge: people's labels, the judge's calls, batteries, the gate. As JSON, as lines, and in `judge_page` as HTML."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from keel.core.config import Section, dump
from keel.evaluate import judge_batteries, judge_measures
from keel.evaluate.judge_labels import Labelled
from keel.evaluate.judge_measures import TIE_RULE, JudgedPair, Measuring, Rate
from keel.judges import gate
from keel.judges.ask import Judge
from keel.judges.gate import GateConfig
from keel.judges.orders import Told, verdicts
from keel.judges.record import first_failures

log = logging.getLogger("keel")


class JudgeReportConfig(Section):
    """How a judge is measured."""

    samples: int = Field(default=2, ge=1, description="How often each order is asked; two and more show repeats that turn.")
    injected_pairs: int = Field(default=30, ge=0, description="Pairs on which verdicts are injected; each takes 24 calls.")
    hollow_prompts: int = Field(default=20, ge=0, description="Prompts for which hollow answers are scored; each takes 12 calls.")
    draws: int = Field(default=2000, ge=100, description="Resamples of the intervals.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Level of the intervals.")
    bins: int = Field(default=5, ge=2, description="Bins of the calibration error.")
    seed: int = Field(default=0, ge=0, description="Seed of resamples and of what the batteries choose.")
    gate: GateConfig = Field(default=GateConfig(), description="What the judge must show.")


def judge_report(
    judge: Judge, labels: Sequence[Labelled], config: JudgeReportConfig, source: str, told: Told | None = None
) -> dict[str, Any]:
    """Ask the judge about labelled pairs, measure it beside people, attack it, and put it through the gate."""
    how = Measuring(config.draws, config.level, config.seed)
    found = verdicts(judge, [x.question for x in labels], config.samples, told)
    judged = [JudgedPair(v, x.votes) for v, x in zip(found, labels, strict=True)]
    report = measured(judge, judged, config, source)
    if report["too_many_failures"]:
        log.warning("%.0f%% of the calls have no verdict: no rate is given", 100 * report["measures"]["failures"]["mean"])
    else:
        report["injected"] = judge_batteries.injected(judge, judged, how, config.injected_pairs) if config.injected_pairs else None
        report["hollow"] = judge_batteries.hollow(judge, judged, how, config.hollow_prompts) if config.hollow_prompts else None
    checks = gate.decide(report, config.gate)
    report["gate"] = {"passed": gate.passed(checks), "checks": [c.to_json() for c in checks]}
    return report


def measured(judge: Judge, judged: Sequence[JudgedPair], config: JudgeReportConfig, source: str) -> dict[str, Any]:
    """The report without batteries and gate. Above the gate's share of failures all rates but that of failures are None."""
    how = Measuring(config.draws, config.level, config.seed)
    rates: dict[str, Rate | None] = judge_measures.measure(judged, judge.family, how)
    failures = rates["failures"]
    lost = failures is not None and failures["mean"] > config.gate.failures
    if lost:
        rates = {name: rate if name in ("failures", "pairs_without_verdict") else None for name, rate in rates.items()}
    return {
        "schema": gate.SCHEMA,
        "judge": {"name": judge.name, "identity": judge.identity, "family": judge.family},
        "labels": {
            "source": source,
            "pairs": len(judged),
            "prompts": len({j.question.prompt.prompt_id for j in judged}),
            "votes": sum(len(j.votes) for j in judged),
        },
        "settings": dump(config),
        "tie_rule": TIE_RULE,
        "too_many_failures": lost,
        "measures": rates,
        "calibration": None if lost else judge_measures.calibration(judged, how, config.bins),
        "failures_by_kind": judge_measures.failures_by_kind(judged),
        "first_failures": first_failures(s for j in judged for _, s in j.verdict.calls),
        "price": judge_measures.price(judged),
        "injected": None,
        "hollow": None,
    }


def headline(report: dict[str, Any]) -> list[str]:
    """The report in lines."""
    x = report["labels"]
    lines = [f"judge {report['judge']['name']} on {x['pairs']} pairs of {x['prompts']} prompts, {x['votes']} votes; {report['tie_rule']}"]
    lines += judge_measures.summary(report["measures"])
    if report["calibration"]:
        lines += judge_measures.summary({k: report["calibration"][k] for k in ("ece", "temperature")})
    for name in ("injected", "hollow"):
        if (battery := report[name]) is not None:
            keys = [k for k in ("all", "control", "excess") if k in battery]
            lines += judge_measures.summary({f"{name} ({k})": battery[k] for k in keys})
    lines += [f"failed {n}x: {report['first_failures'][kind][:300]}" for kind, n in report["failures_by_kind"].items()]
    p = report["price"]
    cost = "unknown" if p["cost"] is None else f"{p['cost']:.4g}"
    lines.append(f"price: {cost} for {p['made']} calls made of {p['calls']}")
    for check in report["gate"]["checks"]:
        value = "not measured" if check["value"] is None else f"{check['value']:.3g}"
        lines.append(f"gate: {check['name']} {value}, limit {check['limit']:g}: {'passed' if check['passed'] else 'FAILED'}")
    lines.append("the judge passes the gate" if report["gate"]["passed"] else "the judge does not pass the gate")
    return lines
