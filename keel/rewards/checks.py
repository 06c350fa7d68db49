"""A sample of automatic verdicts that people check: tasks in a file, the verdicts in another beside it, and nobody is told what to find.

Which verdicts are drawn is a hash of seed, id and answer: the same ones on every machine and at every repetition. A task that was written
twice (a run that went on) is one task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
KIND = "hallucination_check"
ANSWERS = ("yes", "no", "unsure")
_WHOLE = 1 << 64
QUESTION = "Look at the picture. For each type: does the answer make up something of it? Write yes, no or unsure in place of null."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a measure or a detector said of one answer. ``types``: those that it looks for; ``errors``: (type, the words)."""

    id: str
    text: str
    types: tuple[str, ...]
    errors: Sequence[tuple[str, str]]
    asked: str = ""
    images: tuple[str, ...] = ()

    @property
    def task_id(self) -> str:
        from keel.core.hashing import stable_hash  # settings of rewards are read without it: it brings numpy

        return f"{stable_hash(KIND, self.id, self.asked, self.text):016x}"


def drawn(verdicts: Iterable[Verdict], share: float, seed: int) -> list[Verdict]:
    """Those that people are asked about; each is drawn with probability ``share``, whatever the others are."""
    from keel.core.hashing import stable_hash

    return [v for v in verdicts if stable_hash("check", seed, v.id, v.asked, v.text) < share * _WHOLE]


def verdict_file(path: Path) -> Path:
    """Where the automatic verdicts of the tasks in ``path`` stand."""
    return path.with_name(f"{path.stem}.verdicts.jsonl")


def write(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Append tasks, and their verdicts to the file beside."""
    from keel.runs.logs import append

    append(path, [_task(v) for v in verdicts])
    append(verdict_file(path), [_kept(v) for v in verdicts])


def _task(v: Verdict) -> dict[str, Any]:
    item = {"id": v.id, "images": list(v.images), "prompt": v.asked, "text": v.text}
    head = {"schema": SCHEMA, "task_id": v.task_id, "kind": KIND, "question": QUESTION, "options": list(ANSWERS), "item": item}
    return {**head, "answers": dict.fromkeys(v.types), "answered_by": ""}


def _kept(v: Verdict) -> dict[str, Any]:
    found = {kind: any(k == kind for k, _ in v.errors) for kind in v.types}
    return {"schema": SCHEMA, "task_id": v.task_id, "found": found, "errors": [list(e) for e in v.errors]}
