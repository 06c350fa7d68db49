"""`keel collect`: answers from several sources, the most different of them as tasks, and a report of how varied they are."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.core.hashing import stable_hash
from keel.data.cleaning.clean import clean
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.data.identity import prompt_of
from keel.data.left_out import LeftOut
from keel.feedback import rows
from keel.feedback.diversity import diversity, said
from keel.feedback.store import prompt_row
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.runs.memory import give_back_memory
from keel.types import Candidate, Prompt, Task
from keel.verbs.collect.choose import choose, tasks_of
from keel.verbs.collect.page import page
from keel.verbs.collect.recipe import CollectRecipe, FileSource, ModelSource
from keel.verbs.collect.sources import Answers, from_file, from_model, from_records
from keel.verbs.shared.account import Account
from keel.verbs.shared.evaluation_sets import evaluation_prompts
from keel.verbs.shared.session import Session, open_session

log = logging.getLogger("keel")
TASKS, PROMPTS, DIVERSITY, PAGE = "tasks.jsonl", "prompts.jsonl", "diversity.json", "diversity.html"
_VARIES = re.compile(r"'[^']*'|\d+(?:\.\d+)?")


def run_collect(recipe: CollectRecipe, path: Path, parent: str = "") -> dict[str, Any]:
    """Leaves ``tasks.jsonl``, ``prompts.jsonl`` (after cleaning), ``diversity.json`` and ``.html``, and ``left_out.jsonl`` with every
    prompt and answer that is in no task, by name and reason. Returns the summary; its ``file`` is the folder, so that
    ``"@collect/tasks.jsonl"`` names the tasks in a pipeline."""
    data = load_data(recipe.data, recipe.seed)
    with open_session("collect", recipe, path, {data.source: data.fingerprint}, parent) as session:
        if (done := session.finished()) is not None:
            return done
        account = Account(path, recipe.settings.max_refused, data=data)
        data, cleaned = _clean(data, recipe, account)
        prompts = data.prompts()
        pool = _gather(session, recipe, data, prompts, account)
        chosen, left = choose(prompts, pool, recipe)
        account.leave_out("answers", left)
        tasks = tasks_of(prompts, chosen, recipe)
        if not tasks:
            first = f" (first: {left[0].reason})" if left else ""
            raise DataError(
                f"no prompt got enough usable answers: there are no tasks{first}", f"see {path / 'left_out.jsonl'}; loosen candidates"
            )
        write_atomic(path / PROMPTS, b"".join(json_line(prompt_row(p)) for p in prompts))
        write_atomic(path / TASKS, b"".join(map(json_line, (*_campaign(recipe, tasks[0]), *({"task": rows.task_row(t)} for t in tasks)))))
        found = diversity(tasks)
        reasons = Counter(_VARIES.sub("#", r.reason) for r in (*left, *account.left.get("sources", ())))
        write_atomic(path / DIVERSITY, (json.dumps(found, ensure_ascii=False, indent=1) + "\n").encode())
        write_atomic(path / PAGE, page(found, dict(reasons.most_common()), _samples(tasks)).encode())
        log.info(
            "%d tasks of %d answers to %d prompts; how varied they are: %s", len(tasks), found["answers"], found["prompts"], path / PAGE
        )
        summary = {k: found[k] for k in ("prompts", "answers", "tasks", "sources", "languages", "distinct_2", "distance")}
        summary |= {"negatives": found["errors"]["planted"], "clean": cleaned, "left_out": len(left), "left_out_by_reason": dict(reasons)}
        return session.finish({**summary, "file": str(path), "data": account.summary()})


def _campaign(recipe: CollectRecipe, task: Task) -> tuple[dict[str, Any], ...]:
    """The line of the campaign that the tasks are for, if there is one: a store makes it when it reads the file."""
    if not recipe.task.campaign:
        return ()
    named = {"name": recipe.task.campaign, "wanted": recipe.task.people, "kind": task.kind, "protocol": task.protocol, "seed": recipe.seed}
    return ({"campaign": named},)


def _clean(data: Dataset, recipe: CollectRecipe, account: Account) -> tuple[Dataset, dict[str, int]]:
    """The data without what is to be taken out, and how much that was."""
    if recipe.clean is None:
        return data, {}
    found = clean(data.records, recipe.clean, evaluation_prompts(recipe.clean.decontaminate))

    def gone(place: int, why: str) -> LeftOut:
        record = data.records[place]
        return LeftOut(getattr(record, "record_id", prompt_of(record).prompt_id), prompt_of(record).source_id, why)

    account.leave_out("clean", [gone(r.place, f"{r.rule}: {r.reason}") for r in found.removed])
    if not found.kept:
        raise DataError(
            f"{data.source}: cleaning left nothing of {len(data)} records", f"see {account.out / 'left_out.jsonl'}; loosen clean"
        )
    return replace(data, records=tuple(data.records[i] for i in found.kept)), found.counts()


def _gather(session: Session, recipe: CollectRecipe, data: Dataset, prompts: Sequence[Prompt], account: Account) -> Answers:
    """All answers by prompt, in the order of the sources. Each model is loaded once and given back before the next."""
    by_source: dict[str, Answers] = {}
    left: list[LeftOut] = []
    models: dict[str, list[ModelSource]] = {}
    for source in recipe.sources:
        if isinstance(source, ModelSource):
            models.setdefault(source.model or recipe.model, []).append(source)
        elif isinstance(source, FileSource):
            by_source[source.name], out, fingerprint = from_file(source, prompts, recipe.seed)
            left += out
            session.run.pin(dict(fingerprint))
        else:
            by_source[source.name], out = from_records(source, data.records, prompts)
            left += out
    for i, sources in enumerate(models.values()):
        found, out = from_model(session, recipe, sources, prompts, account, first=i == 0)
        by_source |= found
        left += out
        give_back_memory()
    account.leave_out("sources", left)
    pool: dict[str, list[Candidate]] = {p.prompt_id: [] for p in prompts}
    for source in recipe.sources:
        for prompt_id, candidates in by_source[source.name].items():
            pool[prompt_id] += candidates
    return pool


def _samples(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """A few prompts with their answers, for the page."""
    some = sorted({t.prompt.prompt_id: t for t in tasks}.values(), key=lambda t: stable_hash("show", t.prompt.prompt_id))[:8]

    def source(candidate: Candidate) -> str:
        origin = candidate.origin
        return str(origin.get("source", "?")) + (f": {origin['negative']}" if "negative" in origin else "")

    return [{"prompt": said(t.prompt), "answers": [{"source": source(c), "text": c.text} for c in t.candidates]} for t in some]
