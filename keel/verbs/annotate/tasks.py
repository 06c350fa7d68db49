"""From a file of tasks to a campaign: campaign, guideline, pictures, tasks by their role. Nothing is stored twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from keel.core.errors import ConfigError, DataError
from keel.data.identity import PromptIds
from keel.feedback.campaigns import Campaign
from keel.feedback.db import RowError, Store
from keel.feedback.own_rows import body_of, kind_of
from keel.feedback.rows import digest, task_from, task_row
from keel.feedback.tasks import ROLES, Role, load_tasks
from keel.feedback.texts import optional
from keel.types import Task
from keel.verbs.annotate.recipe import JUDGING, AnnotateRecipe
from keel.web.media import Media
from keel.web.protocol import page_of

_PART = 200


@dataclass(frozen=True, slots=True)
class Imported:
    """How many tasks of a file came in, by role, how many were there already, how many stand twice in the file."""

    added: Mapping[str, int]
    there: int
    twice: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A line of a file of tasks: FILE:LINE, the task, and what stands beside it."""

    where: str
    task: Task
    role: Role
    priority: float = 0.0


def role_of(task: Task, beside: str = "") -> Role:
    """What stands ``beside`` the task, else ``meta.role``, else gold for a task with an expected answer, else work. Raises RowError for an
    unknown role."""
    role = beside or task.meta.get("role", "work" if task.expected is None else "gold")
    if role not in ROLES:
        raise RowError("role" if beside else "meta.role", f"must be one of {', '.join(ROLES)}, is {role!r}")
    return cast("Role", role)


def read_tasks(path: Path) -> Iterator[Asked]:
    """The tasks of a file of Task rows, JSONL, bare or as lines of Keel's own feedback. Raises DataError naming file, line and field."""
    try:
        lines = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "--tasks names a file with a task a line (JSONL)") from None
    ids = PromptIds()
    with lines:
        try:
            for number, line in enumerate(lines, 1):
                where = f"{path}:{number}"
                if line.strip() and (asked := _asked(where, _row(where, line))) is not None:
                    ids.check(asked.task.prompt, where)
                    yield asked
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: is no UTF-8: {error}", "save the file as UTF-8") from None


def choose_campaign(store: Store, name: str, tasks: Path | None) -> str:
    """The campaign's name: the one given, the only one there is, or the name of the file of tasks. Raises ConfigError."""
    there = [c.name for c in store.campaigns()]
    if "/" in name or not name.isprintable():
        raise ConfigError(f"--campaign: {name!r} cannot be part of an address", "a name without / and control characters")
    if name and (tasks is not None or name in there):
        return name
    if name:
        raise ConfigError(f"campaign {name!r} is not in the store", f"there are: {', '.join(there) or 'none'}; --tasks FILE makes one")
    if len(there) == 1:
        return there[0]
    if tasks is not None and not there:
        return tasks.stem
    if not there:
        raise ConfigError("the store holds no campaign", "give tasks to judge: keel annotate --tasks FILE")
    raise ConfigError(f"which campaign? There are: {', '.join(there)}", "--campaign NAME")


def prepare(store: Store, media: Media, name: str, tasks: Path | None, recipe: AnnotateRecipe, given: Sequence[str]) -> Imported:
    """Make the campaign or change it by the settings that were ``given``, and take in the tasks. Raises UserError; a mistake in the
    file is found before anything is stored."""
    there = next((c for c in store.campaigns() if c.name == name), None)
    first = check_file(store, media, name, tasks, there) if tasks is not None else None
    if there is None:
        assert first is not None  # `choose_campaign` saw to it
        _make(store, name, first, recipe)
    elif given:
        _change(store, there, recipe, given)
    return _take_in(store, media, name, tasks) if tasks is not None else Imported({}, 0)


def _make(store: Store, name: str, first: Task, recipe: AnnotateRecipe) -> None:
    shares = {k: getattr(recipe, k) for k in ("gold_share", "repeat_share", "lease_seconds", "seed")}
    campaign = Campaign(name, recipe.wanted, first.kind, first.protocol, first.guideline, settings=recipe.settings(), **shares)
    page_of(campaign)
    version = add_guideline(store, recipe)
    store.add_campaign(replace(campaign, guideline=version) if version else campaign)


def _change(store: Store, there: Campaign, recipe: AnnotateRecipe, given: Sequence[str]) -> None:
    names = {key.split(".")[0].split("=")[0] for key in given}
    for name in ("wanted", "seed"):
        if name in names and getattr(recipe, name) != getattr(there, name):
            raise ConfigError(f"campaign {there.name}: {name} is {getattr(there, name)} and cannot be changed", "make another campaign")
    changes: dict[str, Any] = {n: getattr(recipe, n) for n in names if n in ("gold_share", "repeat_share", "lease_seconds")}
    if names & {"guideline", "weights"}:
        changes["guideline"] = add_guideline(store, recipe)
    judging = {n: getattr(recipe, n) for n in names if n in JUDGING}
    if "page" in names:
        judging["page"] = {**there.settings.page, **recipe.page_row()}
    if judging:
        changes["settings"] = replace(there.settings, **judging)
        page_of(replace(there, settings=changes["settings"]))
    store.update_campaign(there.name, **changes)


def add_guideline(store: Store, recipe: AnnotateRecipe) -> str:
    """Keep the guideline's text under a version that follows from it; returns the version, empty without a guideline."""
    if not recipe.guideline:
        return ""
    path = Path(recipe.guideline)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"guideline: {path} cannot be read: {error}", "a Markdown file in UTF-8") from None
    weights = recipe.weights or {d.name: d.weight for d in recipe.page.dimensions}
    said = json.dumps([text, weights], sort_keys=True, ensure_ascii=False)
    version = f"{path.stem}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    store.add_guideline(version, text, weights)
    return version


def check_file(store: Store, media: Media, name: str, path: Path, there: Campaign | None) -> Task:
    """All that can be wrong with a file of tasks, before anything of it is stored; returns its first task. ``there``: the campaign, when
    the store has it. Raises DataError naming file and line."""
    first: Task | None = None
    places, part = dict[str, tuple[str, str]](), list[Asked]()
    for asked in read_tasks(path):
        where, task = asked.where, asked.task
        first = first or task
        _check(asked, first, there)
        said = digest([task_row(replace(task, source_id="")), asked.role])
        before = places.setdefault(task.task_id, (where, said))
        if before[1] != said:
            raise DataError(
                f"{where}: task {task.task_id} stands at {before[0]} with other content", "give one of them another id, or none"
            )
        part.append(asked)
        if len(part) == _PART:
            _check_known(store, media, name, path.parent, part)
            part.clear()
    _check_known(store, media, name, path.parent, part)
    if first is None:
        raise DataError(f"{path}: holds no task", "a task a line; lines that hold a campaign alone are none")
    return first


def _check_known(store: Store, media: Media, name: str, base: Path, part: Sequence[Asked]) -> None:
    """Tasks that are there must be the same ones; the pictures of the others must be pictures."""
    known = _known(store, part)
    for where, task in ((a.where, a.task) for a in part):
        stored = known.get(task.task_id)
        if stored is None:
            media.check(task, base, where)
        elif stored.campaign != name:
            raise DataError(f"{where}: task {task.task_id} belongs to campaign {stored.campaign}", "give it another id, or none")
        elif not _same(media, base, task, stored):
            raise DataError(f"{where}: task {task.task_id} is in the store with other content", "a changed task needs another id, or none")


def _same(media: Media, base: Path, given: Task, stored: Task) -> bool:
    """Do they ask the same? Where a row came from may differ, and the campaign's guideline where it names none; pictures are compared by
    their bytes, unless those of the file are gone."""
    like = replace(given, campaign=stored.campaign, source_id=stored.source_id, guideline=given.guideline or stored.guideline)
    shown, kept = media.by_digest(like, base), media.by_digest(stored)
    return shown == kept if shown and kept else media.without(like) == media.without(stored)


def _take_in(store: Store, media: Media, name: str, path: Path) -> Imported:
    added, there, twice, seen, part = Counter[str](), 0, 0, set[str](), list[Asked]()

    def flush() -> int:
        known = _known(store, part)
        new = [a for a in part if a.task.task_id not in known]
        for first in {(a.role, a.priority): a for a in sorted(new, key=lambda a: ROLES.index(a.role))}.values():
            mine = [media.take_in(a.task, path.parent, a.where) for a in new if (a.role, a.priority) == (first.role, first.priority)]
            store.add_tasks(name, mine, first.role, first.priority)
            added[first.role] += len(mine)
        return len(part) - len(new)

    for asked in read_tasks(path):
        if asked.task.task_id in seen:
            twice += 1
            continue
        seen.add(asked.task.task_id)
        part.append(asked)
        if len(part) == _PART:
            there += flush()
            part.clear()
    there += flush()
    return Imported(dict(added), there, twice)


def _known(store: Store, part: Sequence[Asked]) -> dict[str, Task]:
    ids = [a.task.task_id for a in part]
    return store.read(lambda c: load_tasks(c, ids))


def _check(asked: Asked, first: Task, there: Campaign | None) -> None:
    where, task, role = asked.where, asked.task, asked.role
    if role != "work" and task.expected is None:
        raise DataError(f"{where}: expected is missing: a task for {role} needs its known answer")
    if (task.kind, task.protocol) != (first.kind, first.protocol):
        what = f"{where}: is {task.kind} by {task.protocol}, the first task {first.kind} by {first.protocol}"
        raise DataError(what, "one file, one kind: put the others into another campaign")
    if there is not None and (task.kind, task.protocol) != (there.kind, there.protocol):
        what = f"{where}: is {task.kind} by {task.protocol}, the campaign {there.name} {there.kind} by {there.protocol}"
        raise DataError(what, "name another campaign: --campaign NAME")


def _row(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is no JSON: {error.msg}", "one task a line, as JSON") from None


def _asked(where: str, row: Any) -> Asked | None:
    """The task of a row, and what stands beside it; None for the other rows of a file that Keel wrote for stores (its campaign, annotators,
    judgements)."""
    try:
        if (kind := kind_of(row)) not in ("", "task"):
            return None
        body = body_of(row, "task") if kind else row
        task, beside = task_from(body), row if body is not row else {}
        role = role_of(task, optional(beside, "role", str, ""))
        priority = float(optional(beside, "priority", (int, float), 0.0))
    except RowError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from None
    return Asked(where, task if task.source_id else replace(task, source_id=where), role, priority)
