"""Votes as arrays: who said what of which task, with time and side where they are known. What all measures of people and labels read.

Letters: V votes, T tasks, A annotators, K classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keel.core.errors import DataError
from keel.types.identity import ItemId, answer_id, item_of
from keel.types.judgements import Choice, Judgement
from keel.types.records import Comparison

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CLASSES = ("first", "second", "tie")
FLIPPED = {"first": "second", "second": "first"}


@dataclass(frozen=True, slots=True)
class Votes:
    """V votes on T tasks by A annotators in K classes. ``repeat_V`` is 0 for an annotator's first vote on a task.

    ``seconds_V`` is time at work, ``at_V`` the time of day as seconds since 1970; NaN where not known. ``side_V`` is the place of the
    canonical first candidate on the screen: 0 left or top, 1 right or below, -1 not known. ``skipped`` counts by reason what was read and
    is no vote.
    """

    task_V: Ints
    annotator_V: Ints
    label_V: Ints
    tasks: tuple[str, ...]
    annotators: tuple[str, ...]
    classes: tuple[str, ...]
    seconds_V: Floats
    at_V: Floats
    side_V: Ints
    repeat_V: Ints
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])

    def __len__(self) -> int:
        return len(self.task_V)

    def where(self, keep_V: NDArray[np.bool_]) -> Votes:
        """The votes that ``keep_V`` names, bool [V]; tasks, annotators and classes stay what they are."""
        return replace(self, **{name: getattr(self, name)[keep_V] for name in _ARRAYS})

    def first_votes(self) -> Votes:
        """Without repeats: one vote a task and annotator, as agreement and aggregation need it."""
        return self.where(self.repeat_V == 0)

    def by_time(self) -> Votes:
        """In the order in which they were given; where no time is known, in the order of the records."""
        order_V = np.argsort(np.where(np.isnan(self.at_V), -math.inf, self.at_V), kind="stable")
        return replace(self, **{name: getattr(self, name)[order_V] for name in _ARRAYS})


_ARRAYS = ("task_V", "annotator_V", "label_V", "seconds_V", "at_V", "side_V", "repeat_V")


def from_arrays(
    task_V: Any,
    annotator_V: Any,
    label_V: Any,
    classes: int | Sequence[str],
    *,
    tasks: int | Sequence[str] = 0,
    annotators: int | Sequence[str] = 0,
    **optional: Any,
) -> Votes:
    """Votes of plain integers; names are made where a number says how many there are (0: as many as the votes name). ``optional``:
    ``seconds_V``, ``at_V``, ``side_V``, ``repeat_V``. Raises DataError where lengths differ or an index has no name."""
    index = {"task": np.asarray(task_V, np.int64), "annotator": np.asarray(annotator_V, np.int64), "label": np.asarray(label_V, np.int64)}
    n = len(index["task"])
    names = {
        "task": _names(tasks, index["task"]),
        "annotator": _names(annotators, index["annotator"]),
        "label": _names(classes, index["label"]),
    }
    defaults = {
        "seconds_V": np.full(n, math.nan),
        "at_V": np.full(n, math.nan),
        "side_V": np.full(n, -1, np.int64),
        "repeat_V": np.zeros(n, np.int64),
    }
    if unknown := set(optional) - set(defaults):
        raise TypeError(f"no such array: {', '.join(sorted(unknown))}")
    arrays: dict[str, Any] = {name: np.asarray(optional.get(name, value), value.dtype) for name, value in defaults.items()}
    for what, values in index.items():
        if len(values) and not 0 <= values.min() <= values.max() < len(names[what]):
            raise DataError(f"a vote names {what} {values.max()}, but there are {len(names[what])}", "indices count from 0")
    if lengths := {len(x) for x in (*index.values(), *arrays.values())} - {n}:
        raise DataError(f"arrays of votes differ in length: {n} and {sorted(lengths)}", "each vote has one entry in each array")
    return Votes(
        index["task"],
        index["annotator"],
        index["label"],
        tasks=names["task"],
        annotators=names["annotator"],
        classes=names["label"],
        **arrays,
    )


def _names(given: int | Sequence[str], index_V: Ints) -> tuple[str, ...]:
    if not isinstance(given, int):
        return tuple(given)
    return tuple(map(str, range(given or (int(index_V.max()) + 1 if len(index_V) else 0))))


def from_comparisons(comparisons: Iterable[Comparison]) -> Votes:
    """Votes of three classes (`CLASSES`), ``first`` being the candidate whose id sorts first. Task names are the pairs' keys. An
    annotator's second vote on two candidates counts as a repeat."""
    rows: list[tuple[str, str, str, float, float, int, int]] = []
    seen: Counter[tuple[str, str]] = Counter()
    for c in comparisons:
        prompt_id, one, two = item_of(c)
        turned = answer_id(c.candidates[0]) != one
        label = FLIPPED.get(c.outcome, c.outcome) if turned else c.outcome
        side = c.display_order.index(1 if turned else 0)
        task = repr((prompt_id, one, two))
        rows.append((task, c.annotator_id, label, math.nan, math.nan, side, seen[task, c.annotator_id]))
        seen[task, c.annotator_id] += 1
    return _from_rows(rows, CLASSES, {})


def without_repeats(comparisons: Iterable[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """Each annotator's first vote on two candidates, and the repeats, as `from_comparisons` tells them apart."""
    seen: set[tuple[ItemId, str]] = set()
    first: list[Comparison] = []
    repeats: list[Comparison] = []
    for c in comparisons:
        key = (item_of(c), c.annotator_id)
        (repeats if key in seen else first).append(c)
        seen.add(key)
    return first, repeats


def from_judgements(
    judgements: Iterable[Judgement],
    purposes: Collection[str] = ("work", "repeat", "gold", "audit"),
    classes: Sequence[str] = (*CLASSES, "both_bad"),
) -> Votes:
    """Votes of pairwise judgements. What is no vote is counted by reason in ``skipped``: other kinds of answers, other purposes, choices
    outside ``classes`` (``cannot``), judgements that their annotator took back. A later vote of a person on a task is a repeat, whatever
    number its record has, so that a record without numbers is read alike.

    Raises DataError when protocols are mixed.
    """
    given = list(judgements)
    replaced = {j.replaces for j in given if j.replaces}
    protocols = sorted({j.protocol for j in given if isinstance(j.answer, Choice)})
    if len(protocols) > 1:
        raise DataError(
            f"judgements of several protocols are mixed: {', '.join(protocols)}", "labels mean different things; take one at a time"
        )
    rows: list[tuple[str, str, str, float, float, int, int]] = []
    skipped: Counter[str] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    for j in sorted(given, key=lambda j: (j.at, j.event_id)):
        if why := _why_not(j, replaced, purposes, classes):
            skipped[why] += 1
            continue
        assert isinstance(j.answer, Choice)
        side = j.display_order.index(0) if 0 in j.display_order else -1
        seconds = math.nan if j.active_ms is None else j.active_ms / 1000.0
        rows.append((j.task_id, j.by, j.answer.chosen, seconds, _epoch(j.at), side, seen[j.task_id, j.by]))
        seen[j.task_id, j.by] += 1
    return _from_rows(rows, classes, dict(skipped))


def _why_not(j: Judgement, replaced: Collection[str], purposes: Collection[str], classes: Collection[str]) -> str:
    if not isinstance(j.answer, Choice):
        return f"answers of kind {type(j.answer).__name__.lower()}"
    if j.event_id in replaced:
        return "taken back"
    if j.purpose not in purposes:
        return f"purpose {j.purpose}"
    return "" if j.answer.chosen in classes else f"chosen {j.answer.chosen}"


def _epoch(at: str) -> float:
    return datetime.fromisoformat(at).timestamp() if at else math.nan


def _from_rows(rows: Sequence[tuple[str, str, str, float, float, int, int]], classes: Sequence[str], skipped: Mapping[str, int]) -> Votes:
    """Names get their numbers in the order in which they appear, so that results stand in the order of the records."""
    tasks = {name: i for i, name in enumerate(dict.fromkeys(r[0] for r in rows))}
    people = {name: i for i, name in enumerate(dict.fromkeys(r[1] for r in rows))}
    place = {name: i for i, name in enumerate(classes)}
    return Votes(
        task_V=np.array([tasks[r[0]] for r in rows], np.int64),
        annotator_V=np.array([people[r[1]] for r in rows], np.int64),
        label_V=np.array([place[r[2]] for r in rows], np.int64),
        tasks=tuple(tasks),
        annotators=tuple(people),
        classes=tuple(classes),
        seconds_V=np.array([r[3] for r in rows], np.float64),
        at_V=np.array([r[4] for r in rows], np.float64),
        side_V=np.array([r[5] for r in rows], np.int64),
        repeat_V=np.array([r[6] for r in rows], np.int64),
        skipped=skipped,
    )
