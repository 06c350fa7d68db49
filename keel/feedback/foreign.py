"""Other tools' files into a store and out of it. A campaign holds one kind of question by one protocol, so a file may become several."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keel.data.left_out import LeftOut
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.exchange import table
from keel.feedback.exchange.imported import Imported
from keel.types import Annotator, Judgement, Task


@dataclass(frozen=True, slots=True)
class Brought:
    """What an import added: numbers by kind of record, the campaigns, and what of the file is not in them."""

    counts: dict[str, int]
    campaigns: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def bring(store: Store, form: str, path: Path, campaign: str) -> Brought:
    """Read a file (or a Potato project's folder) into campaigns: ``campaign``, or the file's name; ``NAME/PROTOCOL`` for each where the
    file asks several kinds of question. What is there already stays.

    Raises DataError where nothing can be read, ConflictError where an id stands for other content.
    """
    found = table.read(form, path)
    base, groups = campaign or path.stem, _groups(found.tasks)
    counts = Counter({"campaign": 0, "annotator": 0, "task": 0, "judgement": 0})
    known = {a.annotator_id for a in store.annotators()}
    for annotator in found.annotators:
        store.add_annotator(annotator)
        counts["annotator"] += annotator.annotator_id not in known
    said, names = found.by_task(), list[str]()
    for (kind, protocol), tasks in groups.items():
        name = base if len(groups) == 1 else f"{base}/{protocol if protocol not in names else kind}"
        people = max(len({j.by for j in said[t.task_id] if j.purpose == "work"}) for t in tasks)
        if all(c.name != name for c in store.campaigns()):
            store.add_campaign(Campaign(name, max(1, people), kind, protocol))  # type: ignore[arg-type]
            counts["campaign"] += 1
        there = set(store.task_ids(name))
        store.add_tasks(name, [replace(t, campaign=name) for t in tasks])
        counts["task"] += len({t.task_id for t in tasks} - there)
        counts["judgement"] += store.record([j for t in tasks for j in said[t.task_id]])
        names.append(name)
    return Brought(dict(counts), tuple(names), found.left_out)


def take(store: Store, campaign: str, without: Sequence[str] = ()) -> Imported:
    """A campaign as the writers of other formats take it, without some annotators and without what was replaced or retracted, which
    ``left_out`` names. Raises DataError for a campaign that is not there."""
    store.campaign(campaign)
    standing = store.standing(campaign)
    kept: list[Judgement] = []
    left: list[LeftOut] = []
    for j in store.judgements(campaign):
        state = standing.get(j.event_id)
        why = "replaced" if state is None else "retracted" if state.retracted else "its annotator was left out" if j.by in without else ""
        if why:
            left.append(LeftOut(j.event_id, j.source_id, why))
        else:
            kept.append(j)
    by = {j.by for j in kept}
    people: tuple[Annotator, ...] = tuple(a for a in store.annotators() if a.annotator_id in by)
    return Imported(tuple(store.tasks(store.task_ids(campaign))), tuple(kept), people, tuple(left))


def _groups(tasks: Sequence[Task]) -> dict[tuple[str, str], list[Task]]:
    found: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in tasks:
        found[task.kind, task.protocol].append(task)
    return dict(found)
