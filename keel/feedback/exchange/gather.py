"""Collects the records of one foreign file: ids, repeats, twice-written answers, and what is left out."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from keel.data.errors import FieldError
from keel.data.left_out import LeftOut
from keel.data.rows import BadRow, RawRow
from keel.data.sources import Source
from keel.feedback.exchange.imported import NO_TIME, Imported, digest
from keel.feedback.texts import by_bytes
from keel.types.judgements import Annotator, Answer, Judgement, Purpose, Task, TaskKind
from keel.types.records import Candidate, Prompt


@dataclass(slots=True)
class Vote:
    """One answer as it stands in a file. ``vote_id``: the file's own id of it, empty where it has none."""

    task_id: str
    by: str
    answer: Answer
    at: str = ""
    vote_id: str = ""
    place: str = ""
    purpose: Purpose = "work"
    display_order: tuple[int, ...] = ()
    active_ms: int | None = None
    reason: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Gather:
    """Records of one file in format ``name``. Ids follow from the content, so that a file that is read twice gives the same ones."""

    def __init__(self, name: str, file: str = "") -> None:
        self.name, self.file = name, file
        self._tasks: dict[str, Task] = {}
        self._annotators: dict[str, Annotator] = {}
        self._votes: list[Vote] = []
        self._left: list[LeftOut] = []
        self._seen: dict[str, Any] = {}

    @contextlib.contextmanager
    def reading(self, record_id: Any, place: str) -> Iterator[None]:
        """Whatever raises FieldError inside is left out under this id and place, with field and reason."""
        try:
            yield
        except FieldError as error:
            self.leave_out(record_id, place, error.field, error.reason)

    def leave_out(self, record_id: Any, place: str, name: str, reason: str) -> None:
        self._left.append(LeftOut("" if record_id is None else str(record_id), place, f"{name}: {reason}" if name else reason))

    def bad_rows(self, rows: Sequence[BadRow]) -> None:
        """Rows that could not even be read."""
        for row in rows:
            self.leave_out("", f"{row.file}:{row.line}", row.field, row.reason)

    def read(self, source: Source, name_of: Callable[[RawRow], Any], record: Callable[[RawRow], None]) -> Imported:
        """The records of a file's rows: ``record`` notes what is in a row, which ``name_of`` names where it cannot be read."""
        self.bad_rows(source.bad)
        for row in source.rows:
            with self.reading(name_of(row), row.place):
                record(row)
        return self.done()

    def once(self, source_id: str, content: Any, what: str) -> None:
        """Raises FieldError where the id stood for other content before."""
        if self._seen.setdefault(source_id, content) != content:
            raise FieldError("id", f"{source_id} stands twice with different {what}; the first is taken")

    def protocol(self, scheme: str = "") -> str:
        return f"imported:{self.name}" + (f":{scheme}" if scheme else "")

    def task(
        self,
        source_id: str,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        kind: TaskKind,
        scheme: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Task:
        """The task of these contents; made when it is new."""
        protocol = self.protocol(scheme)
        asked = replace(prompt, messages=tuple(map(by_bytes, prompt.messages)))  # the same pictures at another place are the same
        answers = [replace(c, turns=tuple(map(by_bytes, c.turns))) for c in candidates]
        said = [asdict(asked), [asdict(c) for c in answers]]
        task_id = digest(protocol, kind, source_id, said)
        task = Task(task_id, prompt, tuple(candidates), kind, protocol, source_id=source_id, meta=dict(meta or {}))
        return self._tasks.setdefault(task_id, task)

    def expect(self, task: Task, answer: Answer) -> None:
        """The known answer of a task. Raises FieldError where another one is known."""
        known = self._tasks[task.task_id].expected
        if known is not None and known != answer:
            raise FieldError("ground_truth", f"another answer is marked as the truth: {known}")
        self._tasks[task.task_id] = replace(self._tasks[task.task_id], expected=answer)

    def annotator(
        self, foreign: Any, kind: Literal["person", "judge"] = "person", identity: str = "", meta: Mapping[str, Any] | None = None
    ) -> str:
        """The id under which this tool's annotator is kept: ``format:id``. Raises FieldError for one without a name."""
        name = "" if foreign is None else str(foreign).strip()
        if not name:
            raise FieldError("annotator", "nobody is named")
        made = Annotator(f"{self.name}:{name}", kind, identity, dict(meta or {}))
        return self._annotators.setdefault(made.annotator_id, made).annotator_id

    def vote(self, vote: Vote) -> None:
        self._votes.append(vote)

    def done(self) -> Imported:
        """The records. Several answers of one annotator to one task become repeats, in the order of their times (of the file where there
        are none). An answer that stands twice (the same id, or the same time and answer) is taken once."""
        kept = self._without_twice_written()
        order: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for i in sorted(range(len(kept)), key=lambda i: (kept[i].at, i)):
            order[(kept[i].task_id, kept[i].by, "work" if kept[i].purpose == "repeat" else kept[i].purpose)].append(i)
        repeat = {i: n for group in order.values() for n, i in enumerate(group)}
        seen: Counter[str] = Counter()
        judgements = [self._judgement(vote, repeat[i], seen) for i, vote in enumerate(kept)]
        return Imported(tuple(self._tasks.values()), tuple(judgements), tuple(self._annotators.values()), tuple(self._left))

    def _without_twice_written(self) -> list[Vote]:
        kept: dict[Any, Vote] = {}
        for n, vote in enumerate(self._votes):
            name = (vote.vote_id, vote.task_id) if vote.vote_id else (vote.task_id, vote.by, vote.at, str(vote.answer))
            first = kept.setdefault((n,) if not vote.vote_id and not vote.at else name, vote)
            if first is vote:
                continue
            same = (first.answer, first.by, first.at) == (vote.answer, vote.by, vote.at)
            what = "stands twice" if same else "stands twice with different content; the first is taken"
            self.leave_out(
                vote.vote_id or vote.by, vote.place, "id" if vote.vote_id else "", f"this answer {what} (first at {first.place})"
            )
        return list(kept.values())

    def _judgement(self, vote: Vote, repeat: int, seen: Counter[str]) -> Judgement:
        key = vote.vote_id or f"{vote.at}|{vote.answer}"
        event = digest(self.name, vote.task_id, vote.by, vote.purpose, key)
        seen[event] += 1
        if seen[event] > 1:  # without id and time two equal answers can only be told apart by their order
            event = digest(event, seen[event])
        task = self._tasks[vote.task_id]
        return Judgement(
            event_id=event,
            task_id=vote.task_id,
            by=vote.by,
            purpose="repeat" if vote.purpose == "work" and repeat else vote.purpose,  # one vote a person
            answer=vote.answer,
            display_order=vote.display_order or tuple(range(len(task.candidates))),
            protocol=task.protocol,
            at=vote.at or NO_TIME,
            repeat=repeat,
            active_ms=vote.active_ms,
            reason=vote.reason,
            source_id=vote.vote_id or f"{task.source_id}/{vote.by.partition(':')[2]}",
            meta=dict(vote.meta),
        )


def short(file: str, line: int) -> str:
    """A place that stays the same when the file's folder moves."""
    return f"{Path(file).name}:{line}"
