"""People as a scorer of an evaluation: what they are asked, and their votes found again in a store of feedback."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from keel.core.errors import DataError
from keel.evaluate.board import Shares
from keel.feedback.candidates import make_candidate
from keel.feedback.questions import asked_words
from keel.feedback.rows import named, task_row
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.types import Comparison, Group, Task
from keel.verbs.evaluate.recipe import PeopleUse

log = logging.getLogger("keel")
PROTOCOL = "evaluation-v1"
_SHARES = {"first": 1.0, "second": 0.0, "tie": 0.5}


def write_tasks(path: Path, baseline: Sequence[Group], models: Mapping[str, Sequence[Group]]) -> int:
    """Pairs of the baseline's and each model's first answers as tasks, in an order that tells nothing; equal answers are no question."""
    tasks: dict[str, Task] = {}
    for name, groups in models.items():
        for old, new in zip(baseline, groups, strict=True):
            if not old.rollouts or not new.rollouts or old.rollouts[0].text.strip() == new.rollouts[0].text.strip():
                continue
            sides = (("baseline", old), (name, new))
            both = [make_candidate(g.prompt.prompt_id, g.rollouts[0].text, {"model": who}) for who, g in sides]
            both.sort(key=lambda c: c.candidate_id)
            task = named(Task("", old.prompt, tuple(both), "pairwise", PROTOCOL, source_id=old.prompt.source_id))
            tasks[task.task_id] = task
    write_atomic(path, b"".join(json_line(task_row(t)) for t in tasks.values()))
    return len(tasks)


def votes(use: PeopleUse) -> tuple[Comparison, ...]:
    """The votes of the campaign; () where there is no store or campaign yet."""
    from keel.feedback.db import Store
    from keel.feedback.views import of_store

    file = use.store.removeprefix("sqlite:///")
    if "://" not in file and not Path(file).exists():
        return ()
    with Store(use.store) as store:
        if all(c.name != use.campaign for c in store.campaigns()):
            return ()
        return of_store(store, use.campaign).comparisons


def shares(found: Sequence[Comparison], baseline: Sequence[Group], groups: Sequence[Group]) -> Shares:
    """People's shares of a model by prompt. A vote belongs to a pair by the prompt's words and both answers."""
    by_pair: dict[tuple[str, str, str], list[float]] = {}
    for c in found:
        prompt, (first, second) = asked_words(c.prompt), (x.text.strip() for x in c.candidates)
        share = _SHARES[c.outcome]
        by_pair.setdefault((prompt, first, second), []).append(share)
        by_pair.setdefault((prompt, second, first), []).append(1 - share)
    won: dict[str, float] = {}
    every: list[float] = []
    for old, new in zip(baseline, groups, strict=True):
        asked = asked_words(new.prompt)
        pairs = {(asked, n.text.strip(), o.text.strip()) for n in new.rollouts for o in old.rollouts if n.text.strip() != o.text.strip()}
        got = [v for pair in sorted(pairs) for v in by_pair.get(pair, ())]
        if got:
            won[new.prompt.prompt_id] = math.fsum(got) / len(got)
            every += got
    return Shares(won, every.count(0.5) / len(every) if every else 0.0)


def people(use: PeopleUse, folder: Path, baseline: Sequence[Group], models: Mapping[str, Sequence[Group]]) -> dict[str, Shares]:
    """Each model's shares by people. Raises DataError where the campaign has votes and none is about these answers."""
    path = folder / "samples" / "people.jsonl"
    asked = write_tasks(path, baseline, models)
    found = votes(use)
    if not found:
        log.warning("people: no votes in campaign %s yet; ask them: keel annotate --tasks %s (%d pairs)", use.campaign, path, asked)
        return {}
    by_model = {name: shares(found, baseline, groups) for name, groups in models.items()}
    if not any(s.won for s in by_model.values()):
        raise DataError(
            f"people: none of the {len(found)} votes of campaign {use.campaign} is about an answer of these models",
            f"votes are found by prompt and answers; {path} is what these models' answers would be asked as",
        )
    return {name: s for name, s in by_model.items() if s.won}
