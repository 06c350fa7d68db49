"""`keel cases RUN`: a page with a run's cases side by side and its failures by group; beside it the same as JSON, and tasks for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from keel.core.config import load
from keel.core.errors import ConfigError, DataError
from keel.evaluate.compare import Answer
from keel.evaluate.report_samples import choose
from keel.feedback import schema
from keel.feedback.db import Store
from keel.feedback.rows import task_line
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line, plain
from keel.types import Task
from keel.verbs.cases.config import CasesConfig
from keel.verbs.cases.groups import groups_of
from keel.verbs.cases.page import write_pages
from keel.verbs.cases.people import Votes, add_people, votes_of
from keel.verbs.cases.read import Read, read_run
from keel.verbs.cases.reasons import Reasons, kind_of, main_scorer, reasons_of
from keel.verbs.cases.tasks import make_tasks

RESULT, TASKS = "cases.json", "mined_tasks.jsonl"


def run_cases(run: Path, overrides: Sequence[str] = (), store: str = "", campaign: str = "", out: str = "") -> dict[str, Any]:
    """Leaves ``cases.html``, ``cases.zh.html`` and ``cases.json`` in the run, or in ``out``. ``store`` and ``campaign``: people's votes."""
    config, read, reasons, votes = _found(run, overrides, store, campaign)
    result = _result(read, reasons, config, votes, Path(out or run))
    _tell(result)
    return result


def find_tasks(run: Path, overrides: Sequence[str], store: str, campaign: str, out: str = "") -> dict[str, Any]:
    """The same, and ``mined_tasks.jsonl``: tasks that are not in the campaign yet. The summary says how many, and why others are none."""
    there = _has(store, campaign)
    config, read, reasons, votes = _found(run, overrides, store if there else "", campaign)
    result = _result(read, reasons, config, votes, Path(out or run))
    if not reasons:
        raise DataError(
            f"{run}: no answer is a failure by these settings", "raise worst, or name another scorer: keel cases RUN shows the scores"
        )
    made = make_tasks(read, reasons, result["scorer"], config, tasks_in(store, campaign) if there else ())
    file = Path(out or run) / TASKS
    write_atomic(file, b"".join(json_line(task_line(task, "work", priority)) for task, priority in made.tasks))
    _tell(result)
    return {**result, "tasks": len(made.tasks), "not_asked": made.left, "file": str(file)}


def _found(run: Path, overrides: Sequence[str], store: str, campaign: str) -> tuple[CasesConfig, Read, Reasons, Votes]:
    config = load(CasesConfig, None, list(overrides))
    read = read_run(run)
    reasons = reasons_of(read, config)
    votes: Votes = {}
    if store:
        if not _has(store, campaign):
            raise ConfigError(f"{store} holds no campaign {campaign!r}", "keel feedback status --store URL lists them")
        with Store(store) as opened:
            votes = votes_of(opened, campaign)
        reasons = add_people(read, reasons, votes)
    return config, read, reasons, votes


def _has(store: str, campaign: str) -> bool:
    """Is the campaign there? A file that is not there is not made for the question."""
    file = store.removeprefix("sqlite:///")
    if "://" not in file and not Path(file).exists():
        return False
    with Store(store) as opened:
        return any(c.name == campaign for c in opened.campaigns())


def tasks_in(store: str, campaign: str) -> list[Task]:
    """All tasks of a campaign."""
    with Store(store) as opened:
        where = schema.task.c.campaign == campaign
        ids = opened.read(lambda c: [row.task_id for row in c.execute(select(schema.task.c.task_id).where(where))])
        return opened.tasks(ids)


def _result(read: Read, reasons: Reasons, config: CasesConfig, votes: Votes, folder: Path) -> dict[str, Any]:
    scorer = main_scorer(read, config)
    shown = _chosen(read, scorer, config)
    groups = {model: [g.to_json() for g in groups_of(read, model, reasons, config)] for model in read.subjects}
    result: dict[str, Any] = {
        "run": str(read.run),
        "verb_of_run": read.verb,
        "scorer": scorer,
        "baseline": read.baseline,
        "models": list(read.subjects),
        "prompts": len(read.cases),
        "answers": sum(1 for _ in read.answers()),
        "failures": len(reasons),
        "reasons": dict(Counter(kind_of(r) for told in reasons.values() for r in told).most_common()),
        "groups": groups,
        "shown": [{"prompt_id": i, "why": why} for i, why in shown.items()],
        "left_out": dict(read.left_out),
        "last_turn_only": sum(not case.whole for case in read.cases.values()),
    }
    rows = [
        {"prompt_id": p, "model": m, "answer": n, "reasons": told, **_said(read.cases[p].sides[m][n])}
        for (p, m, n), told in reasons.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    result["page"] = str(write_pages(folder, read, result, reasons, votes, config))
    write_atomic(folder / RESULT, (json.dumps(plain(result | {"failing": rows}), ensure_ascii=False, indent=1) + "\n").encode())
    return result


def _said(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text} | ({"turns": list(answer.turns)} if answer.turns else {})


def _chosen(read: Read, scorer: str, config: CasesConfig) -> dict[str, str]:
    """Cases to show, by why: of the first model, by its gain over the baseline where there is one, else by its score."""
    model = read.subjects[0]
    means: dict[str, float | None] = {}
    for i, case in read.cases.items():
        own, before = (_mean(case.sides.get(side, ()), scorer) for side in (model, read.baseline))
        if model in case.sides:
            means[i] = None if own is None else own - before if before is not None else own if not read.baseline else None
    picked = choose(means, fixed=config.fixed, extremes=config.extremes, random=config.random, seed=config.seed)
    return {c.prompt_id: c.why for c in picked}


def _mean(answers: Any, scorer: str) -> float | None:
    values = [v for a in answers if scorer and (v := a.score(scorer)) is not None]
    return sum(values) / len(values) if values else None


def _tell(result: dict[str, Any]) -> None:
    by = result["scorer"] or "no scorer"
    print(f"{result['failures']} of {result['answers']} answers to {result['prompts']} prompts are failures; best and worst by {by}")
    for model, groups in result["groups"].items():
        for g in groups:
            rate = g["rate"]
            share = f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
            print(f"  {model}, {g['by']} {g['name']}: {g['failures']} of {g['answers']}, {share}")
    for why, n in result["left_out"].items():
        print(f"left out: {n}, {why}")
    if result["last_turn_only"]:
        print(f"of {result['last_turn_only']} prompts the run keeps the last turn alone: they are shown and asked without what came before")
    print(f"page: {result['page']}")
