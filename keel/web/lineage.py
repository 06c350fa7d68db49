"""The page of lineage, for managers: from a judgement, person, task or snapshot to the win rates that hang on it, and from a run back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from keel.core.errors import DataError
from keel.feedback import lineage, snapshots
from keel.feedback.db import Store
from keel.web.kit import KitDep, MaybeDep, off
from keel.web.pages import render

router = APIRouter(include_in_schema=False)
SHOWN = 50  # names of one kind; the number of all stands above


@dataclass(frozen=True, slots=True)
class Group:
    """What there is of one kind: (name, what it leads to, a word beside it) of the first ones, and how many in all."""

    kind: str
    n: int
    rows: tuple[tuple[str, str, str], ...]


@router.get("/manage/{campaign}/lineage")
async def page(campaign: str, request: Request, caller: MaybeDep, kit: KitDep, id: str = "") -> Response:
    """``id`` names what is asked about; without it the campaign's snapshots are shown, to begin with."""
    if caller is None or caller.account.role != "manager":
        return RedirectResponse("/login" if caller is None else "/", 303)
    names = [c.name for c in await off(kit.store.campaigns)]
    if campaign not in names:
        return render(request, "message.html", 404, message=f"campaign {campaign!r} is not in the store", hint="")
    asked = id.strip()
    try:
        groups = await off(trace, kit.store, campaign, asked, kit.settings.runs)
    except DataError as error:
        return render(request, "lineage.html", 404, campaign=campaign, asked=asked, groups=(), trouble=f"{error.message}: {error.hint}")
    return render(request, "lineage.html", campaign=campaign, asked=asked, groups=groups, trouble="")


def trace(store: Store, campaign: str, name: str, runs: Path) -> tuple[Group, ...]:
    """What hangs on ``name``, or what a run came from. Raises DataError for what is not known."""
    here = f"/manage/{quote(campaign, safe='')}/lineage"

    def group(kind: str, names: Sequence[str], beside: Mapping[str, str] | None = None, leads: bool = True) -> Group:
        said = beside or {}
        rows = tuple((x, f"{here}?{urlencode({'id': x})}" if leads else "", said.get(x, "")) for x in names[:SHOWN])
        return Group(kind, len(names), rows)

    known = [s for s in snapshots.snapshots(store) if s.query["campaign"] == campaign or s.id == name]
    sizes = {s.id: str(len(s.events)) for s in known}
    if not name:
        return (group("snapshots", [s.id for s in known], sizes),)
    snapshot = next((s for s in known if s.id == name), None)
    events = snapshot.events if snapshot is not None else lineage.events_of(store, name)
    if not events:
        before, read = lineage.events_behind(store, lineage.runs_below(runs), Path(name))
        back = [str(r.path) for r in before]
        made = [s.id for s in read]
        votes = list(dict.fromkeys(e for s in read for e in s.events))
        return group("runs", back, rates(back)), group("snapshots", made, sizes), group("events", votes)
    seen = lineage.affected(store, events, runs)
    people = {j.event_id: j.by for j in store.judgements(campaign) if j.event_id in set(events[:SHOWN])}
    return (
        group("events", seen.events, people),
        group("pairs", seen.pairs, leads=False),
        group("snapshots", seen.snapshots, sizes),
        group("runs", seen.runs),
        group("checkpoints", seen.checkpoints, leads=False),
        group("evaluations", seen.evaluations, rates(seen.evaluations)),
    )


def rates(runs: Sequence[str]) -> dict[str, str]:
    """The win rate with its interval of each run that has one, as a text."""
    found: dict[str, str] = {}
    for run in runs:
        try:
            summary: Any = json.loads((Path(run) / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        rate = summary.get("win_rate") if isinstance(summary, dict) else None
        if isinstance(rate, dict) and {"mean", "low", "high"} <= rate.keys():
            found[run] = f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
    return found
