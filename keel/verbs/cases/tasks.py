"""Failures as tasks for people: each against the best other answer to its prompt, with where it comes from. What was asked is not asked
again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keel.evaluate.compare import Answer
from keel.feedback.candidates import make_turns
from keel.feedback.questions import Asked, asked
from keel.feedback.rows import named
from keel.types import Candidate, Task
from keel.verbs.cases.config import CasesConfig
from keel.verbs.cases.groups import urgency
from keel.verbs.cases.read import Case, Key, Read
from keel.verbs.cases.reasons import Reasons, best_other
from keel.verbs.cases.talks import Turns, is_empty, question

PROTOCOL = "mined-v1"


@dataclass(frozen=True, slots=True)
class Made:
    """Tasks with their priority, most urgent first; ``left``: failures that became none, by why."""

    tasks: tuple[tuple[Task, float], ...]
    left: dict[str, int]


def asked_of(task: Task) -> Asked:
    """What makes two tasks the same question, wherever they come from."""
    return asked(task.prompt, (c.messages for c in task.candidates))


def make_tasks(read: Read, reasons: Reasons, scorer: str, config: CasesConfig, before: Iterable[Task] = ()) -> Made:
    """At most ``config.tasks``. ``before``: tasks that are in the campaign."""
    known = {asked_of(task) for task in before}
    of_prompt, left, made = Counter[str](), Counter[str](), list[tuple[Task, float]]()
    for key in sorted(reasons, key=lambda key: (-urgency(reasons[key]), key)):
        case = read.cases[key[0]]
        if is_empty(case.sides[key[1]][key[2]]):
            left["is empty"] += 1
        elif (other := best_other(case, key, scorer)) is None:
            left["no other answer to compare it with"] += 1
        elif asked_of(task := _task(read, case, key, other, reasons[key], scorer)) in known:
            left["was asked before"] += 1
        elif of_prompt[key[0]] >= config.per_prompt:
            left["its prompt has its tasks (per_prompt)"] += 1
        elif len(made) >= config.tasks:
            left["beyond the number of tasks (tasks)"] += 1
        else:
            known.add(asked_of(task))
            of_prompt[key[0]] += 1
            made.append((task, round(urgency(reasons[key]), 2)))
    return Made(tuple(made), dict(left))


def _task(read: Read, case: Case, key: Key, other: tuple[str, int], reasons: dict[str, float], scorer: str) -> Task:
    one, two = (case.sides[model][number] for model, number in (key[1:], other))
    prompt, own, others = question(case.prompt, one, two)
    failure = _candidate(read, prompt.prompt_id, one, own, *key[1:])
    both = sorted((failure, _candidate(read, prompt.prompt_id, two, others, *other)), key=lambda c: c.candidate_id)
    mined = {"run": str(read.run), "verb": read.verb, "failure": failure.candidate_id, "scorer": scorer, "reasons": sorted(reasons)}
    meta: dict[str, Any] = {"mined": mined} | ({"category": case.category} if case.category else {})
    source = case.prompt.source_id or f"{read.run}#{key[0]}"
    return named(Task("", prompt, (both[0], both[1]), "pairwise", PROTOCOL, source_id=source, meta=meta))


def _candidate(read: Read, prompt_id: str, answer: Answer, turns: Turns, model: str, number: int) -> Candidate:
    scores = {name: value for name in ("gold", "reward_model", *answer.rules) if (value := answer.score(name)) is not None}
    return make_turns(prompt_id, turns, {"model": model, "run": str(read.run), "answer": number, "scores": scores})
