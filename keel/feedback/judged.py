"""Judges before people: where an item stands among the others, and whether a judge's label is enough. Functions of the writer's connection.

In a campaign of ``order=judge_doubt`` a judge's verdict takes no person's place: it says who is asked first. Only where ``judge_labels``
is set and the judge is sure does it count as a label, and the item is closed to people, unless it is drawn for an audit.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from keel.core.hashing import stable_hash
from keel.feedback import schema
from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.campaigns import Campaign, add_missing, campaign_of, chunks, get_campaign, touch
from keel.feedback.doubt import Doubt, doubt_of
from keel.feedback.leases import shift
from keel.feedback.rows import judgement_from
from keel.feedback.sql import run
from keel.feedback.tally import MACHINES, recount
from keel.feedback.views import Standing
from keel.types import Judgement

_t, _h, _j, _a, _u = schema.task, schema.head, schema.judgement, schema.annotator, schema.unjudged
_KIND = select(_a.c.kind).where(_a.c.annotator_id == bindparam("annotator"))
_PLACE = update(_t).where(_t.c.task_id == bindparam("id")).values(ease=bindparam("now_ease"), by_judge=bindparam("now_by_judge"))


def is_machine(c: Connection, annotator: str) -> bool:
    """Is this a judge or a reward model?"""
    return run(c, _KIND, annotator=annotator).scalar() in MACHINES


def advises(c: Connection, annotator: str, campaign: str) -> bool:
    """Does this annotator's verdict in the campaign only say who is asked first?"""
    return is_machine(c, annotator) and get_campaign(c, campaign).settings.judges_advise


def note_failures(c: Connection, annotator: str, failed: Sequence[tuple[str, str]], now: float) -> None:
    """A judge was asked about these tasks and gave no verdict: (task, error). The last failure of each stands."""
    for part in chunks([task for task, _ in failed]):
        c.execute(_u.delete().where(_u.c.annotator == annotator, _u.c.task.in_(part)))
    add_missing(c, _u, [{"task": task, "annotator": annotator, "error": error, "at": now} for task, error in failed])


def place(c: Connection, campaign: Campaign, task_ids: Sequence[str]) -> int:
    """Bring the place of items of work up to what judges said of them; returns how many moved. Those who have gone past them look again."""
    moved, settings = 0, campaign.settings
    for part in chunks(list(dict.fromkeys(task_ids))):
        doubts, asked = _doubts(c, part), _by_people(c, part)
        rows = c.execute(select(_t.c.task_id, _t.c.ease, _t.c.by_judge, _t.c.leased).where(_t.c.task_id.in_(part), _t.c.role == "work"))
        for row in rows.all():
            doubt = doubts.get(row.task_id, Doubt())
            ease = doubt.ease(settings.judge_sure) if settings.judges_advise else 0.0
            labels = _labels(campaign, row.task_id, doubt) and (bool(row.by_judge) or not (row.leased or row.task_id in asked))
            if (row.ease, bool(row.by_judge)) != (ease, labels):
                run(c, _PLACE, id=row.task_id, now_ease=ease, now_by_judge=int(labels))
                shift(c, row.task_id)
                moved += 1
            recount(c, row.task_id)
    if moved:
        touch(c, campaign.name)
    return moved


def _labels(campaign: Campaign, task_id: str, doubt: Doubt) -> bool:
    """Is a judge's label of this item enough?"""
    settings: CampaignSettings = campaign.settings
    if not settings.judge_labels or not doubt.is_sure(settings.judge_sure):
        return False
    return stable_hash("judge audit", campaign.seed, task_id) / 2.0**64 >= settings.judge_audit


def _doubts(c: Connection, task_ids: Sequence[str]) -> dict[str, Doubt]:
    """What judges say now of each item that any was asked about."""
    standing = select(_j.c.body).join(_h, _h.c.event_id == _j.c.event_id).join(_a, _a.c.annotator_id == _h.c.annotator)
    standing = standing.where(_h.c.task.in_(task_ids), _h.c.retracted == 0, _a.c.kind.in_(MACHINES)).order_by(_h.c.seq)
    said: dict[str, list[Judgement]] = defaultdict(list)
    for body in c.execute(standing).scalars():
        j = judgement_from(json.loads(body))
        said[j.task_id].append(j)
    failed: dict[str, list[str]] = defaultdict(list)
    for row in c.execute(select(_u.c.task, _u.c.annotator).where(_u.c.task.in_(task_ids), ~_taken_back())):
        failed[row.task].append(row.annotator)
    return {task: doubt_of(said[task], failed[task]) for task in {*said, *failed}}


def _taken_back() -> Any:
    r = schema.retraction
    return select(r.c.seq).where(r.c.annotator == _u.c.annotator).exists()


def _by_people(c: Connection, task_ids: Sequence[str]) -> frozenset[str]:
    """The items that somebody who is no machine gave work to, which stands."""
    asked = select(_h.c.task).join(_a, _a.c.annotator_id == _h.c.annotator).where(_h.c.task.in_(task_ids), _h.c.retracted == 0)
    return frozenset(c.execute(asked.where(_h.c.purpose == "work", _a.c.kind.not_in(MACHINES)).distinct()).scalars())


def placed_after(c: Connection, judged: Iterable[Judgement]) -> None:
    """`place` after judgements came in or went, where they are judges' in campaigns that follow them."""
    tasks: dict[str, list[str]] = defaultdict(list)
    machines: dict[str, bool] = {}
    for j in judged:
        if j.by not in machines:
            machines[j.by] = is_machine(c, j.by)
        if machines[j.by]:
            tasks[j.by].append(j.task_id)
    place_where_followed(c, [task for ids in tasks.values() for task in ids])


def place_where_followed(c: Connection, task_ids: Sequence[str]) -> None:
    """`place` for those of the tasks whose campaign follows judges."""
    homes: dict[str, list[str]] = defaultdict(list)
    for part in chunks(list(dict.fromkeys(task_ids))):
        for row in c.execute(select(_t.c.task_id, _t.c.campaign).where(_t.c.task_id.in_(part))):
            homes[row.campaign].append(row.task_id)
    for name, ids in homes.items():
        campaign = get_campaign(c, name)
        if campaign.settings.judges_advise:
            place(c, campaign, ids)


def standing(c: Connection, campaign: str) -> dict[str, Standing]:
    """The events that no correction replaced: do they count, were they taken back, are they a judge's who only says who is asked first?"""
    query = select(_h.c.event_id, _h.c.counted, _h.c.retracted, _h.c.seq, _h.c.purpose, _a.c.kind, _t.c.by_judge)
    query = query.join(_j, _j.c.event_id == _h.c.event_id).join(_a, _a.c.annotator_id == _h.c.annotator).join(_t, _t.c.task_id == _h.c.task)
    rows = c.execute(query.where(_j.c.campaign == campaign)).all()
    known = c.execute(select(schema.campaign).where(schema.campaign.c.name == campaign)).one_or_none()
    advise = known is not None and campaign_of(known).settings.judges_advise
    return {
        r.event_id: Standing(
            bool(r.counted), bool(r.retracted), r.seq, advise and r.purpose == "work" and r.kind in MACHINES and not r.by_judge
        )
        for r in rows
    }


def counts(c: Connection, campaign: str) -> dict[str, int]:
    """How many items of work judges label, and how many votes people still owe."""
    one = (_t.c.campaign == campaign, _t.c.role == "work")
    labelled = c.execute(select(func.count()).where(*one, _t.c.by_judge == 1)).scalar_one()
    missing = select(func.coalesce(func.sum(_t.c.wanted - _t.c.done), 0)).where(*one, _t.c.by_judge == 0)
    return {"by_judge": int(labelled), "missing": int(c.execute(missing).scalar_one())}
