"""`keel ablate RECIPE KEY...`: each setting switched off, on the same seeds as the recipe as it stands, and the difference of a measure.

What a run found is a row of `trials.jsonl`, written once it is known. Killed at any moment, the same command goes on: finished runs are not
run again, and one that was in the middle goes on from its checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from keel.ablate.cells import rows as run_rows
from keel.ablate.off import shown
from keel.ablate.page import write_pages
from keel.ablate.result import Row, effects, value_of
from keel.ablate.study import Study, read_study, run_folder
from keel.core.config import dump
from keel.core.errors import RunError
from keel.core.hashing import digest_bytes
from keel.evaluate.report_plots import duration, number
from keel.runs import logs
from keel.runs.durable import write_atomic
from keel.runs.lock import Lock
from keel.tune.recipe import with_point
from keel.tune.trial import InterruptedTrialError, Trainer

log = logging.getLogger("keel")
JOURNAL, PLAN, RESULT, RECIPE = "trials.jsonl", "plan.json", "ablate.json", "recipe.yaml"
Cell = tuple[int, int]  # number of a change, seed


def run_ablate(
    path: Path, words: Sequence[str], overrides: Sequence[str] = (), *, dry_run: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Run what is not known yet. Returns the result; ``dry_run`` says what would be run and stops."""
    study = read_study(path, words, overrides)
    folder = run_folder(study)
    out = console or Console(stderr=True, emoji=False)
    known = known_rows(folder)
    for line in plan_lines(study, known):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if dry_run:
        runs = len(study.trials)
        return {"run_dir": str(folder), "dry_run": True, "runs": runs, "known": len(known), "changes": [c.to_json() for c in study.changes]}
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        _begin(folder, study)
        known = _run(folder, study)
    except InterruptedTrialError:
        return {"run_dir": str(folder), "verb": "ablate", "interrupted": True}
    finally:
        lock.release()
    result = result_of(folder, study, known)
    write_atomic(folder / RESULT, (json.dumps(logs.plain(result), ensure_ascii=False, indent=1) + "\n").encode())
    write_pages(folder, result)
    print_result(result, out)
    return {"run_dir": str(folder), "verb": "ablate", **result}


def known_rows(folder: Path) -> dict[Cell, Row]:
    """What runs found so far."""
    return {(row["trial"], row["seed"]): row for row in logs.rows_of(folder / JOURNAL)}


def plan_lines(study: Study, known: Mapping[Cell, Row]) -> list[str]:
    """What will be done, in words."""
    lines = [f"off: {c.key}: {shown(c.was)} -> {shown(c.value)} ({c.meaning}). {c.about}".rstrip(". ") for c in study.changes]
    left = [t for t in study.trials if (t.number, t.seed) not in known]
    steps = f" of {study.steps} steps" if study.steps else ""
    lines += [
        f"measure: {study.measure}, {'higher' if study.higher else 'lower'} is better",
        f"runs: {len(study.trials)}{steps}: the recipe as it stands and {len(study.changes)} changes, each on seeds "
        f"{', '.join(map(str, study.seeds))}; {len(left)} to go, {study.config.jobs} at a time",
    ]
    took = [float(row["seconds"]) for row in known.values()]
    if took and left:
        lines.append(
            f"time: about {_time(took, len(left), study.config.jobs)}, as those that are done took {duration(sum(took) / len(took))} each"
        )
    return [*lines, *(f"warning: {said}" for said in study.warnings())]


def _time(took: Sequence[float], left: int, jobs: int) -> str:
    return duration(sum(took) / len(took) * -(-left // jobs))


def _begin(folder: Path, study: Study) -> None:
    """Write what every run starts from. Raises RunError where the folder holds another study. More keys and seeds may come to one."""
    recipe = dump(study.training.recipe) | {"run_dir": ""}
    wanted = {
        "measure": study.measure,
        "higher": study.higher,
        "recipe": digest_bytes(json.dumps(logs.plain(recipe), sort_keys=True).encode()),
        "changes": [c.name for c in study.changes],
    }
    file = folder / PLAN
    if file.is_file():
        before = json.loads(file.read_bytes())
        differ = sorted(k for k in wanted if before.get(k) != wanted[k])
        if differ == ["changes"] and wanted["changes"][: len(before["changes"])] == before["changes"]:
            differ = []
        if differ:
            raise RunError(
                f"{folder} holds another ablation: {', '.join(differ)} differ", "choose another run_dir; new keys go behind the old"
            )
    elif any((folder / name).exists() for name in (JOURNAL, "manifest.json")):
        raise RunError(f"{folder} holds something else than an ablation", "choose another run_dir")
    write_atomic(folder / RECIPE, with_point(study.training.raw, {}).encode())
    write_atomic(file, (json.dumps(wanted, ensure_ascii=False, indent=1) + "\n").encode())


def _run(folder: Path, study: Study) -> dict[Cell, Row]:
    """Run what is not known. All of it is then."""
    known = known_rows(folder)
    trainer = Trainer(study.config.verb, folder / RECIPE, (), folder / "runs", study.measure)
    trials = [t for t in study.trials if (t.number, t.seed) not in known]
    took: list[float] = []
    for row in run_rows(trainer, trials, study.steps, study.config.jobs):
        logs.append(folder / JOURNAL, [row])
        known[row["trial"], row["seed"]] = row
        took.append(row["seconds"])
        name = study.changes[row["trial"] - 1].name if row["trial"] else "the recipe as it stands"
        rest = len(trials) - len(took)
        more = f"; {rest} to go, about {_time(took, rest, study.config.jobs)}" if rest else ""
        log.info("%s, seed %d: %s%s", name, row["seed"], row["ended"] or f"{study.measure} {row['value']}", more)
    return known


def result_of(folder: Path, study: Study, known: Mapping[Cell, Row]) -> dict[str, Any]:
    """Everything, for the file, the pages and the terminal."""
    trainer = Trainer(study.config.verb, folder / RECIPE, (), folder / "runs", study.measure)
    table = [[known[number, seed] for seed in study.seeds] for number in range(len(study.changes) + 1)]
    outcomes = {number: [trainer.outcome(row) for row in rows] for number, rows in enumerate(table)}
    names = [c.name for c in study.changes]
    found = effects(table[0], dict(zip(names, table[1:], strict=True)), outcomes, study.higher)
    changes = [
        {**change.to_json(), **asdict(found[change.name]), "value_of_measure": value_of(rows)}
        for change, rows in zip(study.changes, table[1:], strict=True)
    ]
    rows = [{**row, "name": names[row["trial"] - 1] if row["trial"] else ""} for side in table for row in side]
    return {
        "recipe": str(study.training.path),
        "verb_of_stage": study.config.verb,
        "measure": study.measure,
        "higher": study.higher,
        "seeds": study.seeds,
        "own": value_of(table[0]),
        "warnings": study.warnings(),
        "changes": changes,
        "trials": rows,
    }


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """A row a change, and how to read it."""
    heads = ("switched", "was", result["measure"], "change", "95%", "p (Holm)", "verdict")
    table = Table(*(Column(head, overflow="fold") for head in heads))
    table.add_row("(as it stands)", "", number(result["own"]), "", "", "", "")
    for c in result["changes"]:
        d = c["change"]
        change = (number(d["mean"]), f"{number(d['low'])} to {number(d['high'])}") if d else ("", "")
        p = "" if c["p_holm"] is None else f"{c['p_holm']:.2g}"
        cells = (c["name"], shown(c["was"]), number(c["value_of_measure"]), *change, p, c["verdict"])
        table.add_row(*(cell.replace("[", r"\[") for cell in cells))
    console.print(table)
    for c in result["changes"]:
        console.print(f"{c['name']}: {verdict_words(c)}; {c['why']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(result['seeds'])} seeds, paired; the interval is the wider of those over seeds and over prompts", highlight=False)


def verdict_words(change: Mapping[str, Any]) -> str:
    """The verdict as a sentence about the recipe."""
    return {
        "better": "better with this change",
        "worse": "worse with this change: the recipe needs what it takes away",
        "cannot tell": "cannot tell",
        "changes nothing": "changes nothing",
    }[change["verdict"]]
