"""The tables of the bench, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from labs.watchbench.intervals import rate, share
from labs.watchbench.judge import EXPECTED, Verdict

HALVES = ("kept apart", "tuned on", "all")


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """``found``: ``summary`` of each half."""
    whole = found["all"]
    took, sick = whole["took"], whole["sick"]
    head = f"{whole['healthy']} healthy runs ({whole['healthy_steps']} steps), {sick} made sick, of which it took in {took}."
    own = whole["ill_by_themselves"]
    if own:
        head += f" {len(own)} runs that nothing was put into fell ill by themselves and count as neither: "
        head += "; ".join(f"{name} ({', '.join(rules) or 'no alarm'})" for name, rules in own.items()) + "."
    parts = [head, _goals(found), _families(whole["families"]), _rules(whole["rules"])]
    before = whole["before_onset"]
    if before["steps"]:
        told = f"{before['alarms']} warnings, {per(before['per_1000'])} in 1,000"
        ill = "; ".join(f"{name} ({', '.join(rules) or 'no alarm'})" for name, rules in before["ill"].items())
        left_out = f" Left out are {len(before['ill'])} that fell ill by themselves before it: {ill}." if ill else ""
        parts.append(f"In the {before['steps']} steps of sick runs before they were made sick: {told}.{left_out}")
    seen = ", ".join(f"{name}: {n}" for name, n in sorted(whole["diagnosed_healthy"].items(), key=lambda kv: -kv[1]))
    parts.append(f"What diagnosis puts first in healthy runs: {seen}.")
    return "\n\n".join(parts)


def _goals(found: Mapping[str, Mapping[str, Any]]) -> str:
    halves = [half for half in HALVES if half in found]
    lines = [f"| | goal | {' | '.join(halves)} | met |", f"|---|---|{'---|' * len(halves)}---|"]
    for i, row in enumerate(found["all"]["goals"]):
        cells = [
            per(found[half]["goals"][i]["found"]) if "1,000" in row["what"] else percent(found[half]["goals"][i]["found"])
            for half in halves
        ]
        met = "yes" if all(found[half]["goals"][i]["met"] for half in halves if half != "tuned on") else "no"
        lines.append(f"| {row['what']} | {row['goal']} | {' | '.join(cells)} | {met} |")
    return "\n".join(lines)


def _families(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| sickness | runs | took | named | right cause first | in time | delay, median (worst) |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        delays = r["delays"]
        late = f"{delays[len(delays) // 2]} ({delays[-1]}) {r['unit']}" if delays else "–"
        in_time = percent(r["in_time"]) if r["in_time"] else "–"
        lines.append(f"| {r['name']} | {r['runs']} | {r['took']} | {percent(r['named'])} | {percent(r['cause'])} | {in_time} | {late} |")
    return "\n".join(lines)


def _rules(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| rule | healthy runs with it | alarms in 1,000 healthy steps | is for | speaks there | delay, median, steps |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        there = percent(r["detected"]) if r["detected"] else "–"
        delay = f"{r['delay']:g}" if r["delay"] is not None else "–"
        families = ", ".join(r["families"]) or "–"
        lines.append(f"| {r['name']} | {percent(r['false_runs'])} | {per(r['false_alarms'])} | {families} | {there} | {delay} |")
    return "\n".join(lines)


def percent(value: Mapping[str, float]) -> str:
    """``97% [92, 99]``."""
    if math.isnan(value["mean"]):
        return "–"
    return f"{100 * value['mean']:.0f}% [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def per(value: Mapping[str, float]) -> str:
    """``0.82 [0.51, 1.2]``."""
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def logs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Real logs: what rules and diagnosis say of each."""
    lines = ["| log | form | rows | alarms above info | first cause |", "|---|---|---|---|---|"]
    for r in rows:
        alarms = ", ".join(f"{name} ({step})" for name, step in r["alarms"]) or "none"
        lines.append(
            f"| {r['name']} | {r['form']} | {r['rows']} | {alarms} | {r['symptom'] or 'nothing'}{': ' + r['cause'] if r['cause'] else ''} |"
        )
    return "\n".join(lines)


def peers(found: Sequence[Verdict], said: Mapping[str, Mapping[str, bool | None] | str]) -> str:
    """Runs in which each tool has a warning or worse: healthy ones, and those of each sickness. Keel's: alarms above info."""
    own: dict[str, bool | None] = {v.run.name: bool(v.alarms) for v in found}
    tools = {"Keel": own} | {name: answers for name, answers in said.items() if not isinstance(answers, str)}
    lines = [f"| runs | {' | '.join(tools)} |", f"|---|{'---|' * len(tools)}"]
    groups = {"healthy": [v for v in found if v.well]} | {name: [v for v in found if v.run.family == name and v.took] for name in EXPECTED}
    for name, of in groups.items():
        cells = [percent(asdict(share(sum(answers[v.run.name] is True for v in of), len(of)))) for answers in tools.values()]
        lines.append(f"| {name} ({len(of)}) | {' | '.join(cells)} |")
    failed = [f"{name} failed on {n} runs" for name, answers in tools.items() if (n := sum(a is None for a in answers.values()))]
    missing = [f"{name}: {why}" for name, why in said.items() if isinstance(why, str)]
    return "\n".join([*lines, *failed, *missing])


def trainers(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Each trainer's names: alarms in 1,000 healthy steps, and of each sickness the runs in which it is named."""
    families = list(next(iter(found.values()))["named"])
    lines = [f"| names of | alarms in 1,000 healthy steps | {' | '.join(families)} |", f"|---|---|{'---|' * len(families)}"]
    for name, told in found.items():
        healthy = told["healthy"]
        cells = [f"{hits} of {n}" for hits, n in told["named"].values()]
        lines.append(f"| {name} | {per(asdict(rate(healthy['alarms'], healthy['steps'] / 1000)))} | {' | '.join(cells)} |")
    return "\n".join(lines)
