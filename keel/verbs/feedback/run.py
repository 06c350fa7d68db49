"""`keel feedback`: what lies in a store, into it and out of it, snapshots, retraction, and who saw what. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keel.core.errors import ConfigError, DataError
from keel.data.left_out import LeftOut
from keel.feedback import lineage, snapshots, views
from keel.feedback.db import Store
from keel.feedback.exchange import files, table, training
from keel.feedback.foreign import bring, take
from keel.feedback.interchange import write_campaign
from keel.feedback.own_files import read_files
from keel.feedback.own_rows import is_own
from keel.feedback.snapshots import record_row

_NOTHING = "`keel feedback status` says what the campaign holds"
LAYOUTS = ("comparison", "preference", "ranking", "rating", "unpaired")


def run_import(url: str, names: Sequence[str], campaign: str, form: str = "auto") -> dict[str, Any]:
    """Read files into the store: Keel's own, and those of other tools, told by their content unless ``form`` names it."""
    if not names:
        raise ConfigError("keel feedback import needs a file", "keel feedback import FILE --store URL")
    counts, left = Counter[str](), list[LeftOut]()
    with Store(url) as store:
        for file in map(Path, names):
            if form == "keel" or (form == "auto" and is_own(file)):
                counts.update(read_files(store, [file], campaign))
                continue
            found = bring(store, form, file, campaign)
            counts.update(found.counts)
            left += found.left_out
            print(f"{file}: {', '.join(found.campaigns)}")
    print("new: " + (", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "nothing"))
    _tell(left)
    return {"store": url, "new": dict(counts), "left_out": [asdict(x) for x in left]}


def run_export(url: str, campaign: str, out: str, form: str, without: Sequence[str], surplus: bool = False) -> dict[str, Any]:
    """Write a campaign: ``judgements`` (all of it, read back by import), ``training`` (the rows that training reads), a layout of training
    data, or another tool's format. All but the first take what stands and counts. Raises DataError where nothing would be written."""
    if not out:
        raise ConfigError("--out FILE is needed", "where the rows go")
    if form not in ("judgements", "training"):
        return _export_foreign(url, campaign, Path(out), form, without, surplus)
    with Store(url) as store:
        if form == "judgements":
            if surplus:
                raise ConfigError("--surplus would have no effect: --as judgements writes all votes", "leave it out")
            counts: dict[str, Any] = dict(write_campaign(store, campaign, Path(out), without))
            counts["left_out"] = {"without": len(store.judgements(campaign)) - counts["judgement"]}
        else:
            view = views.of_store(store, campaign, without=without, surplus=surplus)
            if view.spans:
                raise DataError(f"campaign {campaign} marks spans, which no layout of data has", "--as judgements")
            records = (*view.comparisons, *view.rankings, *view.ratings)
            if not records:
                raise DataError(f"campaign {campaign} has nothing that could be trained on: left out {dict(view.left_out)}", _NOTHING)
            files.write_lines(Path(out), map(record_row, records))
            left = dict(view.left_out) | ({"both_bad": n} if (n := len(view.unpaired) // 2) else {})
            counts = {"rows": len(records), "left_out": left}
    print(f"{out}: {json.dumps(counts)}")
    return {"file": out, "counts": counts}


def _export_foreign(url: str, campaign: str, out: Path, form: str, without: Sequence[str], surplus: bool) -> dict[str, Any]:
    with Store(url) as store:
        found = take(store, campaign, without, surplus=surplus)
    if form in LAYOUTS:
        rows, left = training.export(found, form, out)  # type: ignore[arg-type]
        counts = {"rows": rows}
    else:
        left = table.write(form, found, out, or_nothing=True)
        lost = {x.record_id for x in left}
        counts = {"judgements": len({j.event_id for j in found.judgements} - lost)}
    left = (*found.left_out, *left)
    print(f"{out}: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    _tell(left)
    return {"file": str(out), "counts": counts, "left_out": [asdict(x) for x in left]}


def _tell(left: Sequence[LeftOut]) -> None:
    """What is not there, by reason, the first of each by name."""
    first: dict[str, LeftOut] = {}
    numbers = Counter(x.reason for x in left)
    for x in left:
        first.setdefault(x.reason, x)
    for reason, n in numbers.most_common():
        x = first[reason]
        print(f"left out: {n}, {reason} (first: {x.record_id} {x.source_id})")


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


def run_snapshot(url: str, campaign: str, without: Sequence[str], surplus: bool = False) -> dict[str, Any]:
    """Freeze a campaign's votes; what of it is not among them is told by reason."""
    with Store(url) as store:
        found, left = snapshots.take_all(store, campaign, without, surplus=surplus)
    print(f"snapshot {found.id}: {len(found.events)} judgements; data.path: store:{url}#{found.id}")
    for reason, n in left.items():
        print(f"left out: {n}, {reason}")
    return {"id": found.id, "judgements": len(found.events), "left_out": dict(left), "path": f"store:{url}#{found.id}"}


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
