"""What is asked of whom: campaigns, their settings, guidelines, annotators and tasks. Functions of an open connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from keel.core.errors import ConfigError, DataError
from keel.feedback import schema
from keel.feedback.answers import FITS, answer_from, answer_row, likeness
from keel.feedback.campaign import ROLES, Campaign, CampaignSettings, Role
from keel.feedback.rows import check_annotator, check_task, digest, dumps, named, task_content
from keel.feedback.sql import is_sqlite, run
from keel.feedback.texts import candidate_from, candidate_row, prompt_from, prompt_row
from keel.types import Annotator, Task


class ConflictError(DataError):
    """Something of this name is there and says something else: nothing was stored."""


def settings_from(row: Mapping[str, Any]) -> CampaignSettings:
    """The settings of a plain object. Raises ConfigError naming an unknown setting or one out of range."""
    known = [f.name for f in fields(CampaignSettings)]
    unknown = [name for name in row if name not in known]
    if unknown:
        raise ConfigError(f"campaign settings: {unknown[0]} is unknown", f"known: {', '.join(known)}")
    found = CampaignSettings(**row)
    for name in ("pass_mark", "right_at", "disagreement"):
        value = getattr(found, name)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ConfigError(f"campaign settings: {name} must be between 0 and 1, is {value}")
    if found.scale <= 0 or found.repeat_gap < 1:
        raise ConfigError("campaign settings: scale must be above 0 and repeat_gap at least 1")
    return found


def add_campaign(c: Connection, campaign: Campaign, now: float) -> None:
    """Make a campaign. The same one again changes nothing; ConflictError: another one has that name; ConfigError: bad values."""
    if not campaign.name or not campaign.protocol or campaign.kind not in FITS or campaign.wanted < 1 or campaign.lease_seconds <= 0:
        raise ConfigError(f"campaign {campaign.name!r}: name, protocol and kind are needed, wanted and lease_seconds must be above 0")
    if min(campaign.gold_share, campaign.repeat_share) < 0 or campaign.gold_share + campaign.repeat_share > 0.9:
        raise ConfigError(f"campaign {campaign.name}: gold_share and repeat_share must not be below 0, together at most 0.9")
    settings_from(_settings(campaign))
    before = c.execute(select(schema.campaign).where(schema.campaign.c.name == campaign.name)).one_or_none()
    if before is None:
        row = {**asdict(campaign), "paused": int(campaign.paused), "settings": dumps(_settings(campaign)), "changed": 0, "at": now}
        c.execute(insert(schema.campaign), row)
    elif replace(campaign_of(before), paused=campaign.paused) != campaign:
        raise ConflictError(f"campaign {campaign.name} is there with other settings", "choose another name, or use update_campaign")


def update_campaign(c: Connection, name: str, **changes: Any) -> Campaign:
    """Change ``paused``, shares, ``lease_seconds`` or ``settings``; what defines the votes (wanted, kind, protocol, seed) stays."""
    allowed = ("paused", "gold_share", "repeat_share", "lease_seconds", "settings", "guideline")
    refused = [key for key in changes if key not in allowed]
    if refused:
        raise ConfigError(f"campaign {name}: {refused[0]} cannot be changed", f"what can: {', '.join(allowed)}")
    found = replace(get_campaign(c, name), **changes)
    if min(found.gold_share, found.repeat_share) < 0 or found.gold_share + found.repeat_share > 0.9 or found.lease_seconds <= 0:
        raise ConfigError(f"campaign {name}: shares must not be below 0 and together at most 0.9, lease_seconds above 0")
    settings_from(_settings(found))
    row = {key: getattr(found, key) for key in allowed} | {"paused": int(found.paused), "settings": dumps(_settings(found))}
    c.execute(update(schema.campaign).where(schema.campaign.c.name == name).values(**row))
    return found


_CAMPAIGN = select(schema.campaign).where(schema.campaign.c.name == bindparam("name"))


def get_campaign(c: Connection, name: str) -> Campaign:
    """Raises DataError when there is none of that name."""
    row = run(c, _CAMPAIGN, name=name).one_or_none()
    if row is None:
        raise unknown_campaign(name)
    return campaign_of(row)


def unknown_campaign(name: str) -> DataError:
    """What is raised for a campaign that is not there."""
    return DataError(f"campaign {name!r} is not in the store", "add_campaign makes one")


def campaigns(c: Connection) -> tuple[Campaign, ...]:
    return tuple(campaign_of(row) for row in c.execute(select(schema.campaign).order_by(schema.campaign.c.name)))


def add_guideline(c: Connection, version: str, text: str, weights: Mapping[str, float], now: float) -> None:
    """A version of the guideline is never changed. Raises ConflictError when it is there with another text."""
    row = {"version": version, "text": text, "weights": dumps(dict(weights))}
    _once(c, schema.guideline, "version", row, now)


def get_guideline(c: Connection, version: str) -> tuple[str, dict[str, float]]:
    """Text and weights by dimension. Raises DataError when there is no such version."""
    row = c.execute(select(schema.guideline).where(schema.guideline.c.version == version)).one_or_none()
    if row is None:
        raise DataError(f"guideline {version!r} is not in the store", "add_guideline adds a version")
    return row.text, json.loads(row.weights)


def add_annotator(c: Connection, annotator: Annotator, now: float) -> None:
    """Raises ConflictError when one of that id is there with another kind, identity or meta."""
    check_annotator(annotator)
    row = {"annotator_id": annotator.annotator_id, "kind": annotator.kind, "identity": annotator.identity}
    _once(c, schema.annotator, "annotator_id", {**row, "meta": dumps(dict(annotator.meta))}, now)


def annotators(c: Connection) -> tuple[Annotator, ...]:
    rows = c.execute(select(schema.annotator).order_by(schema.annotator.c.annotator_id))
    return tuple(Annotator(r.annotator_id, r.kind, r.identity, json.loads(r.meta)) for r in rows)


def add_tasks(c: Connection, campaign: str, tasks: Sequence[Task], role: Role, priority: float) -> tuple[str, ...]:
    """Add tasks to a campaign, in their order; returns their ids. A task that is there is left as it is.

    Raises DataError for a task that does not fit the campaign or has no expected answer where its role needs one, ConflictError for an id
    that stands for another task.
    """
    found = get_campaign(c, campaign)
    if role not in ROLES:
        raise ConfigError(f"role {role!r} is unknown", f"known: {', '.join(ROLES)}")
    position = c.execute(select(func.max(schema.task.c.position)).where(schema.task.c.campaign == campaign)).scalar() or 0
    ids: list[str] = []
    for task in tasks:
        task = replace(task, campaign=campaign, guideline=task.guideline or found.guideline)
        task = task if task.task_id else named(task)
        check_task(task)
        if (task.kind, task.protocol) != (found.kind, found.protocol):
            what = f"task {task.task_id} is {task.kind} by {task.protocol}, the campaign {campaign} {found.kind} by {found.protocol}"
            raise DataError(what, "judgements of different protocols are not mixed: make another campaign")
        if role in ("gold", "training", "qualification") and task.expected is None:
            raise DataError(f"task {task.task_id}: a task for {role} needs its expected answer")
        before = c.execute(select(schema.task).where(schema.task.c.task_id == task.task_id)).one_or_none()
        if before is None:
            position += 1
            _insert_task(c, task, role, found.wanted, priority, position)
        else:
            _check_same(load_tasks(c, [task.task_id])[task.task_id], task, before.role, role)
        ids.append(task.task_id)
    touch(c, campaign)
    return tuple(ids)


def _check_same(there: Task, task: Task, role: str, wanted_role: str) -> None:
    """Raises ConflictError unless a task that is there asks the same; where its parts came from may differ."""
    if there.campaign != task.campaign:
        what = f"task {task.task_id} belongs to campaign {there.campaign}"
        raise ConflictError(what, f"--campaign {there.campaign} adds to it; another campaign needs tasks of its own ids")
    if role != wanted_role:
        raise ConflictError(f"task {task.task_id} is there with the role {role}, not {wanted_role}", "give it another id, or none")
    if task_content(there) != task_content(task):
        raise ConflictError(f"task {task.task_id} is there with other content", "give it another id, or none")


def set_priority(c: Connection, task_ids: Sequence[str], priority: float) -> None:
    """Tasks of a higher priority are given out first; 0 is the usual."""
    t = schema.task
    c.execute(update(t).where(t.c.task_id.in_(task_ids)).values(urgency=-priority))
    for name in c.execute(select(t.c.campaign).where(t.c.task_id.in_(task_ids)).distinct()).scalars().all():
        touch(c, name)


def touch(c: Connection, campaign: str) -> None:
    """People who have gone through the items look from the beginning again."""
    c.execute(update(schema.campaign).where(schema.campaign.c.name == campaign).values(changed=schema.campaign.c.changed + 1))


_FEW = 20  # so many rows are asked for one by one: their statements are compiled once
_TASK = select(schema.task).where(schema.task.c.task_id == bindparam("key"))
_BODY = {id(t): select(t.c.hash, t.c.body).where(t.c.hash == bindparam("key")) for t in (schema.prompt, schema.candidate)}


def load_tasks(c: Connection, task_ids: Sequence[str]) -> dict[str, Task]:
    """Tasks by id; those that are not there are left out."""
    if len(task_ids) <= _FEW:
        rows = [row for i in task_ids if (row := run(c, _TASK, key=i).one_or_none()) is not None]
    else:
        rows = [r for part in chunks(task_ids) for r in c.execute(select(schema.task).where(schema.task.c.task_id.in_(part)))]
    names = {r.task_id: json.loads(r.candidates) for r in rows}
    prompts = _bodies(c, schema.prompt, {r.prompt for r in rows})
    candidates = _bodies(c, schema.candidate, {h for found in names.values() for h in found})
    return {
        r.task_id: Task(
            task_id=r.task_id,
            prompt=prompt_from(prompts[r.prompt]),
            candidates=tuple(candidate_from(candidates[h], "candidate") for h in names[r.task_id]),
            kind=r.kind,
            protocol=r.protocol,
            guideline=r.guideline,
            campaign=r.campaign,
            expected=answer_from(json.loads(r.expected)) if r.expected else None,
            source_id=r.source_id,
            meta=json.loads(r.meta),
        )
        for r in rows
    }


def is_right(c: Connection, campaign: Campaign, task_id: str, body: str) -> bool:
    """Is the stored judgement of a known item near enough to the expected answer?"""
    expected = c.execute(select(schema.task.c.expected).where(schema.task.c.task_id == task_id)).scalar_one()
    said, wanted = answer_from(json.loads(body)["answer"]), answer_from(json.loads(expected))
    return likeness(said, wanted, campaign.settings.scale) >= campaign.settings.right_at


def chunks(ids: Sequence[str], size: int = 500) -> list[Sequence[str]]:
    """Lists short enough for one statement."""
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def add_missing(c: Connection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not there yet."""
    if rows:
        made = (sqlite if is_sqlite(c) else postgresql).insert(table).on_conflict_do_nothing()
        c.execute(made, list(rows))


def _insert_task(c: Connection, task: Task, role: str, wanted: int, priority: float, position: int) -> None:
    asked, shown = prompt_row(task.prompt), [candidate_row(x) for x in task.candidates]
    add_missing(c, schema.prompt, [{"hash": digest(asked), "body": dumps(asked)}])
    add_missing(c, schema.candidate, [{"hash": digest(x), "body": dumps(x)} for x in shown])
    row: dict[str, Any] = {n: getattr(task, n) for n in ("task_id", "campaign", "kind", "protocol", "guideline", "source_id")}
    row |= {"role": role, "prompt": digest(asked), "candidates": dumps([digest(x) for x in shown]), "meta": dumps(dict(task.meta))}
    row |= {"expected": "" if task.expected is None else dumps(answer_row(task.expected)), "wanted": wanted, "urgency": -priority}
    c.execute(insert(schema.task), row | {"position": position, "open": 1, "done": 0, "leased": 0, "dispute": 0})


def _bodies(c: Connection, table: Any, hashes: set[str]) -> dict[str, Any]:
    if len(hashes) <= _FEW:
        return {h: json.loads(run(c, _BODY[id(table)], key=h).one().body) for h in hashes}
    parts = chunks(sorted(hashes))
    return {r.hash: json.loads(r.body) for part in parts for r in c.execute(select(table).where(table.c.hash.in_(part)))}


def _once(c: Connection, table: Any, key: str, row: Mapping[str, Any], now: float) -> None:
    before = c.execute(select(table).where(table.c[key] == row[key])).mappings().one_or_none()
    if before is None:
        c.execute(insert(table), {**row, "at": now})
    elif any(before[name] != value for name, value in row.items()):
        raise ConflictError(f"{table.name} {row[key]!r} is there with other content", "choose another name: what is there is not changed")


def campaign_of(row: Any) -> Campaign:
    """The campaign of a row that has its columns."""
    found = {name: getattr(row, name) for name in _FIELDS}
    return Campaign(**{**found, "paused": bool(row.paused), "settings": _read_settings(row.settings)})


_FIELDS = tuple(f.name for f in fields(Campaign))


@lru_cache(maxsize=256)
def _read_settings(text: str) -> CampaignSettings:
    return settings_from(json.loads(text))


def _settings(campaign: Campaign) -> dict[str, Any]:
    return {f.name: getattr(campaign.settings, f.name) for f in fields(CampaignSettings)}
