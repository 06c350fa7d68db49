"""Keel's own files into a store: whole campaigns, tasks as `keel collect` and `keel run` write them, comparisons."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import select

from keel.core.errors import DataError, UserError
from keel.feedback import schema
from keel.feedback import store as files
from keel.feedback.arrivals import campaign_name, ensure, made_again
from keel.feedback.campaign_settings import settings_from
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.interchange import put_comparisons, retractions
from keel.feedback.own_rows import KINDS, body_of, read_lines
from keel.feedback.rows import annotator_from, check_judgement, judgement_from, task_from
from keel.feedback.tally import MACHINES
from keel.feedback.tasks import ROLES, load_tasks
from keel.feedback.texts import RowError, get, optional
from keel.types import Annotator, Judgement, Task

log = logging.getLogger("keel")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Asked:
    line: int
    task: Task
    role: str
    priority: float


@dataclass(slots=True)
class _File:
    """What a file holds, checked for itself, each with its line."""

    campaigns: list[tuple[int, Campaign]] = field(default_factory=list[tuple[int, Campaign]])
    guidelines: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list[tuple[int, Mapping[str, Any]]])
    annotators: list[tuple[int, Annotator]] = field(default_factory=list[tuple[int, Annotator]])
    tasks: list[_Asked] = field(default_factory=list[_Asked])
    judgements: list[tuple[int, Judgement]] = field(default_factory=list[tuple[int, Judgement]])
    unjudged: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list[tuple[int, Mapping[str, Any]]])
    retractions: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list[tuple[int, Mapping[str, Any]]])


def read_files(store: Store, paths: Sequence[Path], campaign: str = "") -> dict[str, int]:
    """Keel's own lines into campaigns: those that the file names, ``campaign`` in place of the one that it names, else the file's name.
    A campaign that is missing is made. Returns what is new by kind; what is there already stays.

    Raises DataError naming file and line; a mistake in a line is found before anything of its file is stored.
    """
    counts = Counter(dict.fromkeys(KINDS, 0))
    for path in paths:
        lines = read_lines(path)
        if lines and lines[0][1] == "comparison":
            comparisons = files.read(path)
            known = {a.annotator_id for a in store.annotators()}
            people = [Annotator(name, "person") for name in sorted({c.annotator_id for c in comparisons} - known)]
            name = campaign or path.stem
            before = {c.name for c in store.campaigns()}, set(store.task_ids(name))
            counts["judgement"] += put_comparisons(store, name, comparisons, people)
            counts["annotator"] += len(people)
            counts["campaign"] += name not in before[0]
            counts["task"] += len(set(store.task_ids(name)) - before[1])
        else:
            counts.update(_put(store, path, _parsed(path, lines, campaign)))
    return dict(counts)


def _parsed(path: Path, lines: Sequence[tuple[int, str, Any]], campaign: str) -> _File:
    found, current, named = _File(), "", dict[str, None]()
    for line, kind, row in lines:
        body = body_of(row, kind)
        if kind == "campaign":
            current = str(body.get("name", ""))
        name = current if kind == "campaign" else str(body.get("campaign") or current) if kind == "task" else ""
        if name:
            named[name] = None
        target = campaign or name or path.stem
        _at(path, line, lambda kind=kind, body=body, row=row, line=line, target=target: _note(found, line, kind, body, row, target))
    if campaign and len(named) > 1:
        raise DataError(f"{path}: holds several campaigns ({', '.join(named)}), --campaign {campaign} cannot stand for all", "leave it out")
    judged = {j.task_id for _, j in found.judgements if j.purpose == "work"}
    found.tasks = [replace(a, role=_role(a, judged)) for a in found.tasks]
    for a in found.tasks:
        if a.role not in ROLES:
            raise DataError(f"{path}:{a.line}: role must be one of {', '.join(ROLES)}, is {a.role!r}", "correct the line")
    return found


def _note(found: _File, line: int, kind: str, body: Any, row: Mapping[str, Any], target: str) -> None:
    match kind:
        case "campaign":
            settings = settings_from(body.get("settings", {}))
            try:
                found.campaigns.append((line, Campaign(**{**body, "name": target, "settings": settings})))
            except TypeError as error:
                raise RowError("campaign", f"is not complete or has an unknown field: {error}") from None
        case "guideline":
            for name in ("version", "text"):
                get(body, name, str)
            found.guidelines.append((line, body))
        case "annotator":
            found.annotators.append((line, annotator_from(body)))
        case "task":
            beside = row if body is not row else {}
            role, priority = optional(beside, "role", str, ""), optional(beside, "priority", (int, float), 0.0)
            found.tasks.append(_Asked(line, task_from({**body, "campaign": target}), role, float(priority)))
        case "judgement":
            found.judgements.append((line, judgement_from(body)))
        case "unjudged":
            for name in ("task", "annotator", "error"):
                get(body, name, str)
            found.unjudged.append((line, body))
        case _:
            for name in ("annotator", "event_id", "why", "who"):
                get(body, name, str)
            found.retractions.append((line, body))


def _role(asked: _Asked, judged: set[str]) -> str:
    """The line's own, or the one in the task's meta; else gold for a task with a known answer that nobody was asked as work."""
    told = asked.role or asked.task.meta.get("role")
    return str(told) if told else "gold" if asked.task.expected is not None and asked.task.task_id not in judged else "work"


def _put(store: Store, path: Path, found: _File) -> dict[str, int]:
    new = Counter[str]()
    there = {c.name for c in store.campaigns()}
    known = {a.annotator_id for a in store.annotators()}
    stored = store.read(lambda c: load_tasks(c, [a.task.task_id for a in found.tasks]))
    for line, row in found.guidelines:
        new["guideline"] += not _has_guideline(store, row["version"])
        _at(path, line, lambda row=row: store.add_guideline(row["version"], row["text"], row.get("weights")))
    for line, one in found.campaigns:
        _at(path, line, lambda one=one: store.add_campaign(one))
        new["campaign"] += one.name not in there
    for line, annotator in found.annotators:
        _at(path, line, lambda annotator=annotator: store.add_annotator(annotator))
        new["annotator"] += annotator.annotator_id not in known
        known.add(annotator.annotator_id)
    spoke = [*((line, j.by) for line, j in found.judgements), *((line, row["annotator"]) for line, row in found.unjudged)]
    stranger = next(((line, by) for line, by in spoke if by not in known), None)
    if stranger is not None:
        raise DataError(f"{path}:{stranger[0]}: annotator {stranger[1]!r} is neither in this file nor in the store", "add their line")
    described = {one.name for _, one in found.campaigns}
    new["campaign"] += _place(store, found, described)
    new["task"] += len({a.task.task_id for a in found.tasks} - set(stored))
    for part in _alike(found.tasks):
        _at(path, part[0].line, lambda p=part: store.add_tasks(p[0].task.campaign, [a.task for a in p], p[0].role, p[0].priority), True)  # type: ignore[arg-type]
    asked = {a.task.task_id: a.task for a in found.tasks}
    for line, j in found.judgements:
        if j.task_id in asked:
            _at(path, line, lambda j=j: check_judgement(j, asked[j.task_id]))
    if found.judgements:
        machines = {a.annotator_id for a in store.annotators() if a.kind in MACHINES}
        said, older = made_again(store, [j for _, j in found.judgements], machines)
        new["judgement"] += _at(path, found.judgements[0][0], lambda: store.record(said), True)
        if older:
            log.warning("%s: %d judgements left out (first: %s): %s", path, len(older), older[0].record_id, older[0].reason)
    for line, row in found.unjudged:
        _at(path, line, lambda row=row: store.not_judged(row["annotator"], {row["task"]: row["error"]}))
    taken = {(r["annotator"], r["event_id"]) for r in retractions(store)}
    corrected = {j.event_id: j.replaces for _, j in found.judgements if j.replaces}
    for line, row in found.retractions:
        if (row["annotator"], row["event_id"]) not in taken and not _follows(store, row["event_id"], corrected, taken):
            _at(path, line, lambda row=row: store.retract(**{k: row[k] for k in ("annotator", "event_id", "why", "who")}))
            new["retraction"] += 1
    return dict(new)


def _follows(store: Store, event: str, corrected: Mapping[str, str], taken: set[tuple[str, str]]) -> bool:
    """Is an event unheard already, because it corrects one that was taken back here? A file names both, for those who had neither."""
    before = event
    while (before := corrected.get(before, "")) and ("", before) not in taken:
        pass
    return (
        bool(before)
        and store.read(lambda c: c.execute(select(schema.head.c.retracted).where(schema.head.c.event_id == event)).scalar()) == 1
    )


def _place(store: Store, found: _File, described: set[str]) -> int:
    """Campaigns for tasks of which the file says nothing more, by kind and protocol; returns how many are new."""
    groups: dict[tuple[str, str, str], list[_Asked]] = defaultdict(list)
    for a in found.tasks:
        if a.task.campaign not in described:
            groups[a.task.campaign, a.task.kind, a.task.protocol].append(a)
    made, names = 0, dict[tuple[str, str, str], str]()
    for base, kind, protocol in groups:
        ids = {a.task.task_id for a in groups[base, kind, protocol]}
        mine = [j for _, j in found.judgements if j.task_id in ids]
        name = names[base, kind, protocol] = campaign_name(store, base, kind, protocol, sum(g[0] == base for g in groups) == 1)
        made += ensure(store, name, kind, protocol, mine)
    moved = [
        replace(a, task=replace(a.task, campaign=names.get((a.task.campaign, a.task.kind, a.task.protocol), a.task.campaign)))
        for a in found.tasks
    ]
    found.tasks = moved
    return made


def _alike(tasks: Sequence[_Asked]) -> list[list[_Asked]]:
    """Runs of tasks of one campaign, role and priority, in their order."""
    parts: list[list[_Asked]] = []
    for a in tasks:
        here = (a.task.campaign, a.role, a.priority)
        if not parts or (parts[-1][0].task.campaign, parts[-1][0].role, parts[-1][0].priority) != here:
            parts.append([])
        parts[-1].append(a)
    return parts


def _has_guideline(store: Store, version: str) -> bool:
    try:
        store.guideline(version)
    except DataError:
        return False
    return True


def _at(path: Path, line: int, do: Callable[[], T], several: bool = False) -> T:
    """What ``do`` gives; its mistakes with file and line."""
    try:
        return do()
    except RowError as error:
        raise DataError(f"{path}:{line}: {error.message}", error.hint) from None
    except UserError as error:
        raise DataError(f"{path}:{line}{' and after' if several else ''}: {error.message}", error.hint) from None
