"""`keel feedback`: what lies in a store, into it and out of it, snapshots, retraction, and who saw what. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DataError
from keel.feedback import lineage, snapshots, views
from keel.feedback.db import Store
from keel.feedback.interchange import read_files, write_campaign
from keel.feedback.snapshots import record_row


def run_import(url: str, files: Sequence[str], campaign: str) -> dict[str, Any]:
    """Read Keel's own files into the store."""
    with Store(url) as store:
        counts = read_files(store, [Path(f) for f in files], campaign)
    print("new: " + (", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "nothing"))
    return {"store": url, "new": counts}


def run_export(url: str, campaign: str, out: str, form: str, without: Sequence[str]) -> dict[str, Any]:
    """Write a campaign: ``judgements`` (all of it, read back by import), ``training`` (the rows that training reads) or ``unpaired``."""
    if not out:
        raise ConfigError("--out FILE is needed", "where the rows go")
    with Store(url) as store:
        if form == "judgements":
            counts: dict[str, Any] = dict(write_campaign(store, campaign, Path(out), without))
        else:
            view = views.of_store(store, campaign, without=without)
            if view.spans and form == "training":
                raise DataError(f"campaign {campaign} marks spans, which no layout of data has", "--as judgements")
            records = view.unpaired if form == "unpaired" else (*view.comparisons, *view.rankings, *view.ratings)
            lines = [json.dumps(record_row(r), ensure_ascii=False, allow_nan=False) + "\n" for r in records]
            Path(out).write_text("".join(lines), encoding="utf-8")
            counts = {"rows": len(lines), "left_out": dict(view.left_out)}
    print(f"{out}: {json.dumps(counts)}")
    return {"file": out, "counts": counts}


def run_status(url: str) -> dict[str, Any]:
    """What a store holds."""
    with Store(url) as store:
        campaigns = {c.name: store.progress(c.name) | {"wanted": c.wanted, "paused": int(c.paused)} for c in store.campaigns()}
        kept = [{"id": s.id, "judgements": len(s.events), **s.query} for s in snapshots.snapshots(store)]
        people = [a.annotator_id for a in store.annotators()]
    for name, found in campaigns.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
    for row in kept:
        print(f"snapshot {row['id']}: {row['judgements']} judgements of {row['campaign']}")
    print(f"{len(people)} annotators: {', '.join(people[:20])}{' ...' if len(people) > 20 else ''}")
    return {"campaigns": campaigns, "snapshots": kept, "annotators": people}


def run_snapshot(url: str, campaign: str, without: Sequence[str]) -> dict[str, Any]:
    """Freeze a campaign's votes."""
    with Store(url) as store:
        found = snapshots.take(store, campaign, without)
    print(f"snapshot {found.id}: {len(found.events)} judgements; data.path: store:{url}#{found.id}")
    return {"id": found.id, "judgements": len(found.events), "path": f"store:{url}#{found.id}"}


def run_retract(url: str, who: str, why: str, runs: str, dry_run: bool) -> dict[str, Any]:
    """Take back an annotator's judgements, or one event, and list what saw them. ``dry_run`` lists alone."""
    with Store(url) as store:
        person = any(a.annotator_id == who for a in store.annotators())
        events = tuple(j.event_id for j in store.judgements(annotator=who)) if person else lineage.events_of(store, who)
        if not events or (not person and events != (who,)):
            raise DataError(f"{who!r} is no annotator with judgements and no event", "`keel feedback status` lists annotators")
        seen = lineage.affected(store, events, Path(runs))
        if not dry_run:
            store.retract(**({"annotator": who} if person else {"event_id": who}), why=why)
    _show(seen)
    return {"retracted": not dry_run, "who": who, **_lists(seen)}


def run_lineage(url: str, name: str, runs: str) -> dict[str, Any]:
    """Of an event, annotator, task or snapshot: what saw it. Of a run: what it came from, down to the judgements."""
    with Store(url) as store:
        events = lineage.events_of(store, name)
        known = next((s for s in snapshots.snapshots(store) if s.id == name), None)
        if events or known:
            seen = lineage.affected(store, events or known.events, Path(runs))  # type: ignore[union-attr]
            _show(seen)
            return {"id": name, **_lists(seen)}
        before, read = lineage.events_behind(store, lineage.runs_below(Path(runs)), Path(name))
    for run in before:
        print(f"run {run.path} ({run.manifest['verb']})")
    for snapshot in read:
        print(f"snapshot {snapshot.id}: {len(snapshot.events)} judgements of {snapshot.query['campaign']}")
    found = [{"id": s.id, "campaign": s.query["campaign"], "events": list(s.events)} for s in read]
    return {"id": name, "runs": [str(r.path) for r in before], "snapshots": found}


def _lists(seen: lineage.Affected) -> dict[str, Any]:
    return {key: list(value) for key, value in asdict(seen).items()}


def _show(seen: lineage.Affected) -> None:
    for name, found in _lists(seen).items():
        shown = found if name not in ("events", "pairs") else found[:5]
        print(f"{len(found)} {name}" + (": " + ", ".join(shown) + (" ..." if len(found) > len(shown) else "") if found else ""))
