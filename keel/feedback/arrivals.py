"""What comes from files into a store that has some of it already: its campaign, what of it is new, how many people there are now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from keel.data.left_out import LeftOut
from keel.feedback import schema
from keel.feedback.answers import answer_row
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.rows import digest
from keel.types import Judgement, Purpose, Task

_STORED = "what is stored stays"


def campaign_name(store: Store, base: str, kind: str, protocol: str, alone: bool) -> str:
    """The campaign for questions of a kind and protocol: ``base`` where it holds these, or is free and they are ``alone`` in their file;
    else ``base/PROTOCOL``, and ``base/PROTOCOL/KIND`` where that holds another kind."""
    there = {c.name: (c.kind, c.protocol) for c in store.campaigns()}
    names = [base, f"{base}/{protocol}", f"{base}/{protocol}/{kind}"]
    found = next((name for name in names if there.get(name) == (kind, protocol)), None)
    return found or next((name for name in names[0 if alone else 1 :] if name not in there), names[-1])


def make_room(store: Store, name: str, judgements: Iterable[Judgement]) -> None:
    """As many people an item as have answered one, stored or among ``judgements``, where nobody was ever handed an item of the campaign: a
    number that people were asked for stays."""
    le = schema.lease
    asked = select(le.c.handle).where(le.c.campaign == name, le.c.slot >= 0).limit(1)
    if store.read(lambda c: c.execute(asked).first()) is None:
        store.widen(name, people_of([*store.judgements(name), *judgements]))


def people_of(judgements: Iterable[Judgement]) -> int:
    """How many different people gave work to one task, at most; at least 1."""
    people: dict[str, set[str]] = defaultdict(set)
    for j in judgements:
        if j.purpose == "work":
            people[j.task_id].add(j.by)
    return max([1, *map(len, people.values())])


def ensure(store: Store, name: str, kind: Any, protocol: str, judgements: Sequence[Judgement]) -> int:
    """Make the campaign when it is missing, for as many people an item as answered; else make room for them. 1 when it is new."""
    if any(c.name == name for c in store.campaigns()):
        make_room(store, name, judgements)
        return 0
    store.add_campaign(Campaign(name, people_of(judgements), kind, protocol))
    return 1


def fresh(store: Store, campaign: str, judgements: Sequence[Judgement]) -> tuple[list[Judgement], list[LeftOut]]:
    """Of what a file holds, the judgements that the campaign has not.

    A vote that was changed there since is a correction of the one that stands. One that says again what was corrected here is a correction
    where its time is later than that of the one that stands; else the file may be an older one, and it is named. A person's further answer
    to a task is a repeat, numbered after those that are stored. Where a vote differs in less than what was said (its time at work, columns
    beside it) what is stored stays, and it is named.
    """
    there = store.judgements(campaign)
    known, later = {j.event_id: j for j in there}, {j.replaces: j for j in there if j.replaces}
    used: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for j in there:
        used[_series(j)].add(j.repeat)
    new: list[Judgement] = []
    left: list[LeftOut] = []
    for j in judgements:
        if j.event_id not in known:
            new.append(_numbered(j, used[_series(j)]))
            continue
        line = [known[j.event_id]]
        while line[-1].event_id in later:
            line.append(later[line[-1].event_id])
        last = line[-1]
        if _said(last) != _said(j) and (j.at > last.at or all(_said(x) != _said(j) for x in line)):
            event = digest([last.event_id, *_said(j)])
            new.append(replace(j, event_id=event, replaces=last.event_id, purpose=last.purpose, repeat=last.repeat))
        elif _said(last) != _said(j):
            left.append(LeftOut(j.event_id, j.source_id, f"says what was corrected since: an older file, or changed back; {_STORED}"))
        elif all(_beside(x) != _beside(j) for x in line):
            left.append(LeftOut(j.event_id, j.source_id, f"is there with another time at work or other columns beside it; {_STORED}"))
    return new, left


def made_again(store: Store, judgements: Sequence[Judgement], machines: Container[str]) -> tuple[list[Judgement], list[LeftOut]]:
    """Judgements, of which those of ``machines`` (ids of judges) may say again what stands in the store: where it is something else now, or
    a mean of more calls, it takes the place of what stands, which stays in the history. What is older than what stands is left out."""
    by = dict.fromkeys(j.by for j in judgements if j.by in machines)
    known, stands = dict[str, Judgement](), dict[tuple[str, str, str, int], Judgement]()
    for name in by:
        before = store.judgements(annotator=name)
        known |= {j.event_id: j for j in before}
        later = {j.replaces for j in before}
        stands |= {_place(j): j for j in before if j.event_id not in later}
    new: list[Judgement] = []
    left: list[LeftOut] = []
    for j in judgements:
        if j.by not in by or j.replaces:
            new.append(j)
        elif (there := known.get(j.event_id)) is not None:
            new.append(replace(j, replaces=there.replaces))
        elif (old := stands.get(_place(j))) is not None and j.at < old.at:
            left.append(LeftOut(j.event_id, j.source_id, f"an older answer of {j.by} than the one that stands; {_STORED}"))
        else:
            new.append(replace(j, replaces=old.event_id) if old is not None else j)
            stands[_place(j)] = j
    return new, left


def _place(j: Judgement) -> tuple[str, str, str, int]:
    return j.by, j.task_id, j.purpose, j.repeat


def other_tasks(tasks: Sequence[Task], stored: dict[str, Task]) -> list[LeftOut]:
    """Tasks that are there and say more or less of themselves than before: a known answer, columns beside it."""
    why = f"the task is there with another known answer or other columns; {_STORED}"
    differ = [t for t in tasks if (s := stored.get(t.task_id)) is not None and (s.expected, dict(s.meta)) != (t.expected, dict(t.meta))]
    return [LeftOut(t.task_id, t.source_id, why) for t in differ]


def _numbered(j: Judgement, used: set[int]) -> Judgement:
    if j.repeat in used:
        purpose: Purpose = "repeat" if j.purpose == "work" else j.purpose
        j = replace(j, purpose=purpose, repeat=max(used) + 1)
    used.add(j.repeat)
    return j


def _series(j: Judgement) -> tuple[str, str, str]:
    return j.task_id, j.by, "work" if j.purpose == "repeat" else j.purpose


def _said(j: Judgement) -> list[Any]:
    return [answer_row(j.answer), j.reason, list(j.display_order)]


def _beside(j: Judgement) -> list[Any]:
    return [j.active_ms, dict(j.meta)]
