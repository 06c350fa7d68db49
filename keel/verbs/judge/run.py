"""`keel judge`: a judge labels a file. What it costs is said before the first call; a job that is started again pays for nothing twice."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keel.core.config import dump, load, read_recipe
from keel.core.errors import ConfigError, RunError
from keel.core.hashing import digest_bytes
from keel.core.version import VERSION
from keel.evaluate.judge_labels import reference_of
from keel.feedback.campaign import Campaign
from keel.feedback.rows import annotator_row, judgement_row, task_row, utc
from keel.judges.ask import Judge, Question, Said, check_images, failed
from keel.judges.build import read_judges
from keel.judges.config import EndpointConfig, LocalConfig
from keel.judges.gate import admit
from keel.judges.orders import Verdict, calls_of, verdicts
from keel.judges.record import annotator_of, failures, first_failures, judgements, question_of
from keel.judges.templates import load_template
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Judgement, Task
from keel.verbs.judge.recipe import JudgeRecipe
from keel.verbs.judge.rows import stored_tasks, tasks_of
from keel.verbs.shared.judges import judge_named
from keel.verbs.shared.progress import money, progress

log = logging.getLogger("keel")
Failed = dict[str, str]  # why a task has no verdict


def run_judge(target: str, overrides: Sequence[str], *, dry_run: bool = False) -> dict[str, Any]:
    """Judge ``target``: a recipe of this verb, or a file of answers. Raises UserError before anything is asked or written, and RunError,
    behind what is written, where no task has a verdict."""
    recipe = _recipe(target, overrides)
    judge = judge_named(recipe.judges, recipe.judge)
    tasks = tasks_of(recipe.data, recipe.campaign) if recipe.data else stored_tasks(recipe.store, recipe.campaign)
    check_images(judge, ((t.prompt, t.candidates) for t in tasks))
    asked = [(task, questions_of(task, recipe)) for task in tasks]
    flat = [q for _, of_task in asked for q in of_task]
    calls = [c for q in flat for c in calls_of(q, recipe.samples)]
    price = judge.price(calls)
    print(f"{len(tasks)} tasks, {len(calls)} calls of judge {judge.name}, price at most {money(price)}")
    if dry_run:
        return {"tasks": len(tasks), "calls": len(calls), "price": price, "dry_run": True}
    if not recipe.out and not recipe.store:
        raise ConfigError("--out FILE or store=URL is needed", "where the judgements go")
    admitted = admit(judge, recipe.report, recipe.override, "a labeller")
    with progress(len(calls), "judging") as told:
        said = iter(verdicts(judge, flat, recipe.samples, told))
    found = [(task, merged([next(said) for _ in of_task])) for task, of_task in asked]
    return _write(recipe, judge, found, admitted)


def _recipe(target: str, overrides: Sequence[str]) -> JudgeRecipe:
    if not target:
        recipe = load(JudgeRecipe, None, overrides)
        if not recipe.data and not (recipe.store and "campaign" in recipe.changed):
            raise ConfigError("what is to be judged? ", "keel judge FILE, a recipe (.yaml), or store=URL campaign=NAME: its items")
    elif target.endswith((".yaml", ".yml")):
        if "judges" in (raw := read_recipe(Path(target))) and isinstance(raw["judges"], dict):
            raise ConfigError(f"{target} is a file of judges and no recipe", f"keel judge FILE --judges {target} --judge NAME --out FILE")
        recipe = load(JudgeRecipe, Path(target), overrides)
    else:
        recipe = load(JudgeRecipe, None, [f"data={json.dumps(target)}", *overrides])
    if not recipe.judge:
        raise ConfigError("judge: not given", "--judge NAME")
    if not recipe.data and not recipe.store:
        raise ConfigError("data: not given", "data: FILE in the recipe, or store and campaign: the campaign's items are judged")
    if recipe.data and not Path(recipe.data).is_file():
        raise ConfigError(f"{recipe.data}: no such file", "give a file of answers, or a recipe (.yaml)")
    return recipe


def questions_of(task: Task, recipe: JudgeRecipe) -> list[Question]:
    """The questions that a task takes: one, or one a criterion."""
    reference = reference_of(task.prompt, recipe.reference)
    if recipe.kind != "rubric":
        return [question_of(task, reference=reference)]
    if task.kind != "rating":
        raise ConfigError(f"a rubric scores single answers, and task {task.prompt.source_id} has {len(task.candidates)}", "kind=auto")
    return [question_of(task, criterion, reference) for criterion in _criteria(recipe)]


def _criteria(recipe: JudgeRecipe) -> list[str]:
    if recipe.criteria:
        return list(recipe.criteria)
    config = read_judges(recipe.judges).named(recipe.judge)
    name = config.templates.rubric if isinstance(config, EndpointConfig | LocalConfig) else "rubric_en"
    return list(load_template(name).criteria)


def merged(each: Sequence[Verdict]) -> Verdict:
    """The criteria of one answer as one verdict; one that failed is a failure of the whole."""
    if len(each) == 1:
        return each[0]
    costs = [v.mean.cost for v in each]
    cost = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
    lost = next((v.mean.error for v in each if v.mean.error), "")
    scores = {name: score for v in each for name, score in (v.mean.scores or {}).items()}
    mean = failed(lost, cost=cost) if lost else Said(scores=scores, cost=cost)
    return Verdict(each[0].question, tuple(call for v in each for call in v.calls), mean)


def _write(recipe: JudgeRecipe, judge: Judge, found: Sequence[tuple[Task, Verdict]], admitted: dict[str, Any]) -> dict[str, Any]:
    at = utc(time.time())
    said = [j for task, verdict in found for j in judgements(task, judge, verdict, at)]
    kept = [verdict for _, verdict in found]
    lost = [task.prompt.source_id or task.task_id for task, verdict in found if verdict.mean.error]
    failed: Failed = {task.task_id: verdict.mean.error[:300] for task, verdict in found if verdict.mean.error}
    costs = [s.cost for v in kept for _, s in v.calls]
    summary: dict[str, Any] = {
        "judge": judge.name,
        "tasks": len(found),
        "calls": len(costs),
        "made": sum(s.made for v in kept for _, s in v.calls),
        "cost": None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None),
        "without_verdict": len(lost),
        "failures": failures(kept),
        "out": recipe.out,
        "override": admitted["override"],
    }
    campaign = Campaign(recipe.campaign, 1, found[0][0].kind if found else "pairwise", found[0][0].protocol if found else "pairwise-v1")
    if recipe.out:
        out = Path(recipe.out)
        write_atomic(out, b"".join(json_line(row) for row in _lines(campaign, judge, [t for t, _ in found], said, failed)))
        manifest = {"schema": 1, "verb": "judge", "version": VERSION, "at": at, "recipe": dump(recipe), "admitted": admitted, **summary}
        manifest |= {"data_sha256": digest_bytes(Path(recipe.data).read_bytes()) if recipe.data else "", "lost": lost}
        write_atomic(out.with_name(out.name + ".manifest.json"), (json.dumps(manifest, ensure_ascii=False, indent=2) + "\n").encode())
    if recipe.store:
        summary["stored"] = _store(recipe, campaign, judge, [t for t, _ in found], said, failed)
    shown = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
    cost = money(summary["cost"])
    print(
        f"{len(found) - len(lost)} verdicts, {summary['made']} calls made, cost {cost}" + (f"; without a verdict: {shown}" if lost else "")
    )
    first = first_failures(s for v in kept for _, s in v.calls)
    for kind, n in summary["failures"].items():
        print(f"failed {n}x: {first[kind][:300]}")
    if kept and len(lost) == len(found):
        raise RunError(f"judge {judge.name} gave no verdict at all", "mend what is told above and start the same command again")
    return summary


def _lines(campaign: Campaign, judge: Judge, tasks: Sequence[Task], said: Sequence[Judgement], failed: Failed) -> list[dict[str, Any]]:
    """What `keel feedback import` reads."""
    by = annotator_of(judge)
    head = [{"campaign": asdict(campaign)}, {"annotator": annotator_row(by)}]
    lost = ({"unjudged": {"task": task, "annotator": by.annotator_id, "error": error}} for task, error in failed.items())
    return [*head, *({"task": task_row(t)} for t in tasks), *({"judgement": judgement_row(j)} for j in said), *lost]


def _store(recipe: JudgeRecipe, campaign: Campaign, judge: Judge, tasks: Sequence[Task], said: Sequence[Judgement], failed: Failed) -> int:
    """How many judgements are new in the store. What a judge said before, at another time, is the same event; where it says something else
    now, or its mean is of more calls, the new judgement takes the place of the old one, which stays in the history."""
    from keel.feedback.arrivals import made_again  # the database is an extra
    from keel.feedback.db import Store

    with Store(recipe.store) as store:
        by = annotator_of(judge)
        store.add_annotator(by)
        if recipe.data:
            if all(c.name != campaign.name for c in store.campaigns()):
                store.add_campaign(campaign)
            store.add_tasks(campaign.name, tasks)
        new, _ = made_again(store, said, {by.annotator_id})
        stored = store.record(new)
        store.not_judged(by.annotator_id, failed)
        return stored
