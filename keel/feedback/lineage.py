"""From a judgement to a win rate, and back: which pairs, snapshots, runs, checkpoints and evaluations saw what.

Runs say themselves what they read: the manifest has the fingerprint of each data set (a snapshot's is its id), the run that it follows,
and paths in its settings, which begin in the folder that the run was started in. A run that reads what an affected one made is affected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.conversion import pair_name
from keel.feedback import schema
from keel.feedback.db import Store
from keel.feedback.snapshots import SCHEME, Snapshot, snapshots
from keel.runs.places import places

_AND = " + "  # between the data sets of a list of paths
_EVALUATIONS = ("eval", "eval_reward", "eval_hallucination")


@dataclass(frozen=True, slots=True)
class Affected:
    """What saw some judgements. Paths are those of run directories and what lies in them."""

    events: tuple[str, ...]
    pairs: tuple[str, ...]
    snapshots: tuple[str, ...]
    runs: tuple[str, ...]
    checkpoints: tuple[str, ...]
    evaluations: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run directory and what its manifest says."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def read(self) -> frozenset[str]:
        """Fingerprints of what it read: of each data set, and of each snapshot that a list of paths names, which have one together."""
        named = {name.rpartition("#")[2].partition("/")[0] for name in self.names() if name.startswith(SCHEME) and "#" in name}
        return frozenset(map(str, self.manifest.get("data", {}).values())) | named

    def names(self) -> frozenset[str]:
        """Every path that it may have read: the run before it, data sets, all texts of its settings."""
        found = {str(self.manifest.get("parent") or ""), *map(str, self.manifest.get("data", {}))}
        found |= {part for name in found for part in name.split(_AND)}
        return frozenset(found | set(_texts(self.manifest.get("config"))))

    def saw(self, other: Run) -> bool:
        """May it have read what lies in the folder of another run? Names are taken as the run took them."""
        return other.place in self._seen

    @cached_property
    def place(self) -> Path:
        """Where it lies, links followed."""
        return self.path.resolve()

    @cached_property
    def _seen(self) -> frozenset[Path]:
        """Where its names point, and every folder above."""
        named = frozenset[Path]().union(*(places(self.manifest, name) for name in self.names()))
        return named.union(*(p.parents for p in named))


def runs_below(root: Path) -> list[Run]:
    """All runs below a folder, in the order of their names. A manifest that cannot be read is no run."""
    found: list[Run] = []
    for file in sorted(root.rglob("manifest.json")):
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and "verb" in manifest:
            found.append(Run(file.parent, manifest))
    return found


def affected(store: Store, events: Sequence[str], root: Path) -> Affected:
    """What saw any of these events."""
    wanted = frozenset(events)
    hit = [s for s in snapshots(store) if wanted & set(s.events)]
    runs = following(runs_below(root), {s.id for s in hit})
    kept = [p for r in runs for p in (*sorted((r.path / "checkpoints").glob("*")), r.path / "final") if p.is_dir()]
    return Affected(
        tuple(e for e in events),
        pairs_of(store, events),
        tuple(s.id for s in hit),
        tuple(str(r.path) for r in runs),
        tuple(map(str, kept)),
        tuple(str(r.path) for r in runs if r.manifest["verb"] in _EVALUATIONS),
    )


def following(runs: Sequence[Run], fingerprints: set[str]) -> list[Run]:
    """The runs that read one of these, and all that read what those made, however far."""
    hit = {r.path: r for r in runs if r.read & fingerprints}
    while more := [r for r in runs if r.path not in hit and any(map(r.saw, hit.values()))]:
        hit |= {r.path: r for r in more}
    return [r for r in runs if r.path in hit]


def ancestors(runs: Sequence[Run], path: Path) -> list[Run]:
    """The run in a folder and all that it came from, nearest first. Raises DataError when there is no run."""
    asked = path.resolve()
    start = next((r for r in runs if r.place == asked or r.place in asked.parents), None)
    if start is None:
        raise DataError(f"{path}: no run lies there", "give a run directory, or an id of an event, a snapshot or a task")
    found = [start]
    for run in found:
        found += [r for r in runs if r not in found and run.saw(r)]
    return found


def events_behind(store: Store, runs: Sequence[Run], path: Path) -> tuple[list[Run], list[Snapshot]]:
    """From a win rate back: the runs before it, and the snapshots that they read."""
    before = ancestors(runs, path)
    read = frozenset[str]().union(*(r.read for r in before))
    return before, [s for s in snapshots(store) if s.id in read]


def events_of(store: Store, name: str) -> tuple[str, ...]:
    """The events of an annotator, a task, or one event. Empty when the store knows no such name."""
    from sqlalchemy import or_, select

    j = schema.judgement
    query = select(j.c.event_id).where(or_(j.c.event_id == name, j.c.annotator == name, j.c.task == name)).order_by(j.c.seq)
    return tuple(store.read(lambda c: c.execute(query).scalars().all()))


def pairs_of(store: Store, events: Sequence[str]) -> tuple[str, ...]:
    """The pairs that votes take part in, named prompt:winner>loser in either direction."""
    wanted, names = frozenset(events), dict[str, None]()
    said = [j for j in store.judgements() if j.event_id in wanted]
    for task in store.tasks([j.task_id for j in said]):
        if len(task.candidates) == 2:
            one, two = (c.candidate_id for c in task.candidates)
            names[pair_name(task.prompt.prompt_id, one, two)] = None
            names[pair_name(task.prompt.prompt_id, two, one)] = None
    return tuple(names)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for v in inner for text in _texts(v)]
