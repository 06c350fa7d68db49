"""What a reader of another tool's file hands on: tasks, judgements, annotators, and what of the file is not in them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keel.data.left_out import LeftOut
from keel.types.judgements import Annotator, Judgement, Task

NO_TIME = "1970-01-01T00:00:00Z"  # `Judgement.at` where the file does not say when


@dataclass(frozen=True, slots=True)
class Imported:
    """The content of a file. ``left_out`` names each answer, row or column that made no record: its id, ``file:line``, and field and
    reason."""

    tasks: tuple[Task, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    annotators: tuple[Annotator, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def counts(self) -> dict[str, int]:
        """How many of each, and of the judgements by kind of answer."""
        kinds = Counter(f"{type(j.answer).__name__.lower()}_answers" for j in self.judgements)
        sizes = {"tasks": len(self.tasks), "judgements": len(self.judgements), "annotators": len(self.annotators)}
        return {**sizes, "left_out": len(self.left_out), **kinds}

    def by_task(self) -> dict[str, list[Judgement]]:
        """The judgements of each task, in their order; tasks without any are there too."""
        found: dict[str, list[Judgement]] = {t.task_id: [] for t in self.tasks}
        for judgement in self.judgements:
            found.setdefault(judgement.task_id, []).append(judgement)
        return found


def join(parts: Iterable[Imported]) -> Imported:
    """Several files as one: a task or an annotator that stands in more than one is taken once."""
    tasks: dict[str, Task] = {}
    annotators: dict[str, Annotator] = {}
    judgements: dict[str, Judgement] = {}
    left: list[LeftOut] = []
    for part in parts:
        for task in part.tasks:
            tasks.setdefault(task.task_id, task)
        for annotator in part.annotators:
            annotators.setdefault(annotator.annotator_id, annotator)
        for judgement in part.judgements:
            if judgements.setdefault(judgement.event_id, judgement) != judgement:
                left.append(LeftOut(judgement.event_id, judgement.source_id, "event_id: stands for another judgement in another file"))
        left += part.left_out
    return Imported(tuple(tasks.values()), tuple(judgements.values()), tuple(annotators.values()), tuple(left))


def digest(*parts: Any) -> str:
    """16 hexadecimal digits that follow from ``parts`` (what JSON can hold) alone."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
