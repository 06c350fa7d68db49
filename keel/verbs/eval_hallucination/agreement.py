"""`keel eval hallucination --agreement FILE`: how far people who answered a check sample agree with the automatic verdicts, by type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.evaluate.hallucination.files import read_rows
from keel.evaluate.statistics import wilson
from keel.feedback.agreement import cohen_kappa
from keel.rewards.checks import ANSWERS, KIND, verdict_file
from keel.runs.durable import write_atomic


def run_agreement(file: str, json_file: str = "") -> dict[str, Any]:
    """Read tasks and verdicts, print a line a type, write ``json_file`` where given. Raises DataError for files that cannot be read and for
    tasks without a verdict or without any answer."""
    answers, verdicts = _answers(file), _verdicts(str(verdict_file(Path(file))))
    missing = next((task for task in answers if task not in verdicts), None)
    if missing is not None:
        raise DataError(f"{file}: task {missing} has no verdict in {verdict_file(Path(file))}", "keep the two files of a sample together")
    found = {"file": file, "tasks": len(answers), **measured(answers, verdicts)}
    if not found["answered"]:
        raise DataError(f"{file}: nobody has answered yet", f"write {', '.join(ANSWERS)} in place of null under `answers`")
    if json_file:
        write_atomic(Path(json_file), (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode())
    print(f"{found['answered']} of {found['tasks']} tasks answered")
    for name, row in found["types"].items():
        if row["n"]:
            low, high = row["agreement"]["low"], row["agreement"]["high"]
            kappa = "undefined: all are the same" if row["kappa"] is None else f"{row['kappa']:.2f}"
            rates = f"people say yes to {row['people']:.2f}, the measure to {row['automatic']:.2f}"
            print(f"{name}: agreement {row['agreement']['mean']:.2f} [{low:.2f}, {high:.2f}] of {row['n']}, kappa {kappa}; {rates}")
    return found


def measured(answers: Mapping[str, Mapping[str, str | None]], verdicts: Mapping[str, Mapping[str, bool]]) -> dict[str, Any]:
    """By type, and for ``any`` (tasks whose types are all answered yes or no): share of agreement with Wilson's interval, Cohen's kappa
    (None where it is not defined), and how often each side says yes. ``unsure`` is counted, and compared with nothing."""
    pairs: dict[str, list[tuple[bool, bool]]] = {"any": []}
    unsure: dict[str, int] = {}
    for task, said in answers.items():
        for kind, answer in said.items():
            pairs.setdefault(kind, [])
            unsure[kind] = unsure.get(kind, 0) + (answer == "unsure")
            if answer in ("yes", "no"):
                pairs[kind].append((answer == "yes", verdicts[task].get(kind, False)))
        if said and all(answer in ("yes", "no") for answer in said.values()):
            pairs["any"].append((any(a == "yes" for a in said.values()), any(verdicts[task].get(k, False) for k in said)))
    types = {kind: {**_compared(found), "unsure": unsure.get(kind, 0)} for kind, found in pairs.items()}
    return {"answered": sum(any(a is not None for a in said.values()) for said in answers.values()), "types": types}


def _compared(pairs: list[tuple[bool, bool]]) -> dict[str, Any]:
    if not pairs:
        return {"n": 0, "agreement": None, "kappa": None, "people": None, "automatic": None}
    people, automatic = [a for a, _ in pairs], [b for _, b in pairs]
    kappa, n = cohen_kappa(people, automatic), len(pairs)
    agreed = wilson(sum(a == b for a, b in pairs), n)
    shares = {"people": sum(people) / n, "automatic": sum(automatic) / n}
    return {"n": n, "agreement": agreed.to_json(), "kappa": None if math.isnan(kappa) else kappa, **shares}


def _answers(path: str) -> dict[str, dict[str, str | None]]:
    """Answers by task; of a task that stands twice those that were given."""
    found: dict[str, dict[str, str | None]] = {}
    for row in read_rows(path):
        given = row.values.get("answers")
        if row.values.get("kind") != KIND or not isinstance(given, dict) or not isinstance(row.values.get("task_id"), str):
            raise DataError(f"{row.place}: no task of a check sample", "give the file that --check-sample wrote")
        wrong = next(((k, a) for k, a in given.items() if a is not None and a not in ANSWERS), None)
        if wrong is not None:
            raise DataError(f"{row.place}: answers.{wrong[0]} is {wrong[1]!r}", f"write {', '.join(ANSWERS)}, or leave null")
        known = found.setdefault(row.values["task_id"], dict.fromkeys(given))
        for kind, answer in given.items():
            if answer is not None and known.get(kind) not in (None, answer):
                raise DataError(f"{row.place}: the task stands twice, with two answers to {kind}", "keep one of them")
            known[kind] = answer if answer is not None else known.get(kind)
    return found


def _verdicts(path: str) -> dict[str, Mapping[str, bool]]:
    found: dict[str, Mapping[str, bool]] = {}
    for row in read_rows(path):
        if not isinstance(row.values.get("task_id"), str) or not isinstance(row.values.get("found"), dict):
            raise DataError(f"{row.place}: no verdict of a check sample", "keep the file as it was written")
        found[row.values["task_id"]] = row.values["found"]
    return found
