"""Other tools' files into a store and out of it. A campaign holds one kind of question by one protocol, so a file may become several."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keel.data.left_out import LeftOut
from keel.feedback.arrivals import campaign_name, ensure, fresh, other_tasks
from keel.feedback.campaigns import ConflictError
from keel.feedback.db import Store
from keel.feedback.exchange import table
from keel.feedback.exchange.imported import Imported
from keel.feedback.tasks import load_tasks
from keel.feedback.views import check_known, counting, why_not
from keel.types import Annotator, Judgement, Task

_WHY = {
    "without": "its annotator was left out",
    "advice": "advice: a judge's verdict on an item that people decide",
    "surplus": "surplus: beyond the wanted number of people (--surplus takes them too)",
}


@dataclass(frozen=True, slots=True)
class Brought:
    """What an import added: numbers by kind of record, the campaigns, and what of the file is not in them."""

    counts: dict[str, int]
    campaigns: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def bring(store: Store, form: str, path: Path, campaign: str) -> Brought:
    """Read a file (or a Potato project's folder) into campaigns: ``campaign``, or the file's name; ``NAME/PROTOCOL`` for each where the
    file asks several kinds of question. A later export of the same project goes where the earlier one went, and what is new in it is
    taken: items, votes, people (of whom an item then wants more), and changed votes as corrections. What is there already stays.

    Raises DataError where nothing can be read, ConflictError where an id stands for other content or another campaign has the tasks.
    """
    found = table.read(form, path)
    left, groups = list(found.left_out), _groups(found.tasks)
    counts = Counter({"campaign": 0, "annotator": 0, "task": 0, "judgement": 0})
    known = {a.annotator_id: a for a in store.annotators()}
    for annotator in found.annotators:
        there = known.get(annotator.annotator_id)
        if there is not None and dict(there.meta) != dict(annotator.meta):
            left.append(LeftOut(annotator.annotator_id, str(path), "the annotator is there with other columns; what is stored stays"))
            annotator = replace(annotator, meta=there.meta)
        store.add_annotator(annotator)
        counts["annotator"] += there is None
    said, names = found.by_task(), list[str]()
    stored = store.read(lambda c: load_tasks(c, [t.task_id for t in found.tasks]))
    for (kind, protocol), tasks in groups.items():
        name = _home(store, tasks, stored, campaign) or campaign_name(store, campaign or path.stem, kind, protocol, len(groups) == 1)
        new, changed = fresh(store, name, [j for t in tasks for j in said[t.task_id]])
        counts["campaign"] += ensure(store, name, kind, protocol, new)
        left += [*other_tasks(tasks, stored), *changed]
        more = [replace(t, campaign=name) for t in tasks if t.task_id not in stored]
        store.add_tasks(name, more)
        counts["task"] += len(more)
        counts["judgement"] += store.record(new)
        names.append(name)
    return Brought(dict(counts), tuple(names), tuple(left))


def _home(store: Store, tasks: Sequence[Task], stored: Mapping[str, Task], wanted: str) -> str:
    """The campaign that has some of these tasks; empty where none has. Raises ConflictError when it is not the ``wanted`` one."""
    homes = sorted({stored[t.task_id].campaign for t in tasks if t.task_id in stored})
    if len(homes) > 1 or (homes and wanted and homes[0] != wanted and not homes[0].startswith(f"{wanted}/")):
        raise ConflictError(f"tasks of this file are in the campaign {', '.join(homes)} already", "--campaign NAME names one; leave it out")
    return homes[0] if homes else ""


def take(store: Store, campaign: str, without: Sequence[str] = (), *, surplus: bool = False) -> Imported:
    """A campaign as the writers of other formats take it: what stands and counts, as views have it. ``left_out`` names what was replaced,
    taken back or retracted, votes beyond the wanted number (unless ``surplus``), and those of annotators to be left out. Raises DataError
    for a campaign that is not there, ConfigError for an annotator who is not."""
    store.campaign(campaign)
    check_known(store, without)
    standing, said = store.standing(campaign), store.judgements(campaign)
    counted = counting(said, standing, frozenset(without))
    kept: list[Judgement] = []
    left: list[LeftOut] = []
    for j in said:
        why = why_not(j, standing, frozenset(without))
        if not why and standing[j.event_id].advises:
            why = "advice"
        if not why and j.purpose == "work" and not j.repeat and j.event_id not in counted and not surplus:
            why = "surplus"
        if why:
            left.append(LeftOut(j.event_id, j.source_id, _WHY.get(why, why)))
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
