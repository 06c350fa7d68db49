"""`keel eval hallucination FILE --measure NAME`: hallucination measures of a file of answers, as JSON and in a few lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.config import load
from keel.core.errors import UserError
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.result import Result, overall, to_json
from keel.evaluate.hallucination.table import MEASURES, measure
from keel.evaluate.statistics import Interval
from keel.rewards.checks import drawn, verdict_file, write
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.verbs.eval_hallucination.whose import whose

_SHOWN = 5


def run_eval_hallucination(file: str, name: str, json_file: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure, write ``json_file`` (and ``rows``) where given, print the headline. Raises UserError for settings and files that cannot be
    used, before anything is written."""
    config = load(HallucinationConfig, None, [f"file={json.dumps(file)}", f"measure={json.dumps(name)}", *overrides])
    checks = _checks(config)
    for target in (json_file, config.rows, str(checks or "")):
        if target and Path(target).resolve() == Path(file).resolve():
            raise UserError(f"{target} is the file that is read", "give another name: the answers are not overwritten")
    result = measure(config)
    of, notes = whose(config)
    result = replace(result, notes=(*result.notes, *notes))
    found = {"measure": config.measure, "mode": config.mode, "file": config.file, "truth": config.truth, **of, **to_json(result)}
    if config.rows:
        write_atomic(Path(config.rows), b"".join(json_line(row) for row in result.rows))
    if checks is not None:
        for path in (checks, verdict_file(checks)):
            path.unlink(missing_ok=True)
        chosen = drawn(result.verdicts, config.check_sample, config.seed)
        write(checks, chosen)
        found["checks"] = {"file": str(checks), "tasks": len(chosen), "of": len(result.verdicts)}
        print(f"{len(chosen)} of {len(result.verdicts)} verdicts are tasks for people in {checks}")
    if json_file:
        write_atomic(Path(json_file), (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode())
    for line in headline(config, result):
        print(line)
    return found


def _checks(config: HallucinationConfig) -> Path | None:
    """Where the tasks for people go. Raises UserError for settings without effect, and for tasks that somebody may have answered."""
    if not config.check_sample:
        unread = sorted(config.changed & {"checks", "seed"})
        if unread:
            raise UserError(f"{unread[0]} would have no effect without --check-sample", "give a share, such as --check-sample 0.05")
        return None
    path = Path(config.checks or f"{Path(config.file).with_suffix('')}.checks.jsonl")
    if path.exists():
        raise UserError(f"{path} is there already", "it may hold people's answers: move it away, or name another with checks=FILE")
    return path


def headline(config: HallucinationConfig, result: Result) -> list[str]:
    """The result in a few lines: the coverage stands beside every rate."""
    row = MEASURES[config.measure]
    covered = f"coverage {_shown(result.coverage)} ({row.coverage})"
    lines = [
        f"{config.measure}, mode {config.mode}: "
        + ", ".join([*(f"{k} {_shown(result.rates[k])}" for k in row.leading if k in result.rates), covered])
    ]
    if config.measure == "amber" and "generative" in result.parts:
        lines.append("descriptions: " + ", ".join(f"{k} {_shown(v)}" for k, v in result.parts["generative"].items()))
    lines += [f"{name}: rate {_shown(t.rate)}, coverage {_shown(t.coverage)}" for name, t in result.types.items()]
    both = overall(result.types)
    if both is not None:
        lines.append(f"overall (object 0.5, attribute 0.3, relation 0.2): rate {both['rate']:.3f}, coverage {both['coverage']:.3f}")
    if result.printed:
        lines.append(f"the published script prints: {json.dumps(dict(result.printed), ensure_ascii=False)}")
    lines += [
        f"{len(ids)} {reason.replace('_', ' ')}: {', '.join(ids[:_SHOWN])}{' ...' if len(ids) > _SHOWN else ''}"
        for reason, ids in result.named.items()
        if ids
    ]
    if result.ways:
        lines.append("; ".join(f"{k}: {v}" for k, v in result.ways.items()))
    return [*lines, *(f"note: {note}" for note in result.notes)]


def _shown(value: Interval | None) -> str:
    return "none" if value is None else f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
