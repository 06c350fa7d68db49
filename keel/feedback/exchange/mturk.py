"""Amazon Mechanical Turk's results of a batch: one row an assignment, ``Input.*`` the item, ``Answer.*`` what the worker entered.

Read for this: Amazon's pages on retrieving results and on the assignment's fields (times, status), headers of published batch files
(``HITId, HITTypeId, Title, ..., AssignmentId, WorkerId, AssignmentStatus, AcceptTime, SubmitTime, ..., WorkTimeInSeconds, Input.*,
Answer.*, Approve, Reject``), programs that read ``Answer.taskAnswers`` (a JSON list with one form) and ``Answer.NAME.label``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.left_out import LeftOut
from keel.data.rows import RawRow
from keel.data.sources import read_plain
from keel.feedback.exchange import files
from keel.feedback.exchange.answers import add, form, order_text, word_of
from keel.feedback.exchange.beside import columns_of
from keel.feedback.exchange.gather import Gather, Vote
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.items import is_column, item_of
from keel.feedback.exchange.said import number_of, utc
from keel.types.judgements import Choice, Judgement, Ranks, Scores, Task

NAME = "mturk"
_BESIDE = ("HITTypeId", "Title")
_HEAD = ("HITId", "HITTypeId", "Title", "AssignmentId", "WorkerId", "AssignmentStatus", "AcceptTime", "SubmitTime", "WorkTimeInSeconds")


def fits(values: Mapping[str, Any]) -> bool:
    return {"HITId", "WorkerId", "AssignmentId"} <= set(values)


def read(path: Path, content: bytes | None = None) -> Imported:
    """Every field of ``Answer.`` is a question of its own. Rejected assignments are left out by name; ``WorkTimeInSeconds`` is the time at
    work. Columns of Amazon's that are not read are told once."""
    source = read_plain(path, content)
    gather = Gather(NAME, str(path))
    gather.bad_rows(source.bad)
    unread: dict[str, None] = {}
    for row in source.rows:
        unread |= dict.fromkeys(k for k in row.values if k not in _HEAD and not k.startswith(("Input.", "Answer.")))
        with gather.reading(row.values.get("AssignmentId"), row.place):
            _assignment(row, gather)
    if unread:
        gather.leave_out("", str(path), "columns", f"not read: {', '.join(unread)}")
    return gather.done()


def _assignment(row: RawRow, gather: Gather) -> None:
    values = row.values
    for name in ("HITId", "AssignmentId", "WorkerId"):
        if values.get(name) is None:
            raise FieldError(name, "is missing")
    if str(values.get("AssignmentStatus") or "").lower() == "rejected":
        raise FieldError("AssignmentStatus", "the assignment was rejected")
    source_id = str(values["HITId"])
    item = item_of(_part(values, "Input."), row.folder, source_id)
    answers = _part(values, "Answer.")
    if not answers:
        raise FieldError("Answer", "no field was filled in")
    said, reason = form(answers, item, gather, str(values["AssignmentId"]), row.place)
    seconds = number_of(values.get("WorkTimeInSeconds"))
    vote = Vote(
        "",
        gather.annotator(values["WorkerId"]),
        Choice("cannot"),
        at=utc("SubmitTime", values.get("SubmitTime")),
        vote_id=str(values["AssignmentId"]),
        place=row.place,
        active_ms=None if seconds is None else round(1000 * seconds),
        reason=reason,
    )
    meta = {**item.rest, **{k: values[k] for k in _BESIDE if values.get(k) is not None}}
    for one in said:
        add(gather, item, source_id, one, vote, meta)


def _part(values: Mapping[str, Any], begin: str) -> dict[str, Any]:
    return {k.removeprefix(begin): v for k, v in values.items() if k.startswith(begin) and v is not None}


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """One row an assignment. Left out: spans, judges' judgements, tasks without any."""
    kept, left = files.unfit(imported, ("pairwise", "ranking", "rating"), "a batch has no place for it", ("work",))
    people = {a.annotator_id for a in imported.annotators if a.kind == "person"}
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for task, judgement in kept:
        if judgement is None or judgement.by not in people:
            name = task.task_id if judgement is None else judgement.event_id
            left.append(LeftOut(name, task.source_id, "WorkerId: " + ("nobody has answered" if judgement is None else "is no person")))
            continue
        key = (_assignment_id(judgement), task.source_id, *(c.candidate_id for c in task.candidates))
        row = rows.setdefault(key, _written(task, judgement))
        row |= _answer(task, judgement)
    files.write_csv(path, list(rows.values()), _HEAD)
    return tuple(left)


def _assignment_id(judgement: Judgement) -> str:
    """The id that it has there already, or one of Keel's."""
    return judgement.source_id if judgement.protocol.startswith(f"imported:{NAME}") else judgement.event_id


def _written(task: Task, judgement: Judgement) -> dict[str, Any]:
    row: dict[str, Any] = {"HITId": task.source_id, "AssignmentId": _assignment_id(judgement), "WorkerId": files.foreign(judgement.by)}
    row |= {"AssignmentStatus": "Submitted"} | ({"SubmitTime": at} if (at := files.at(judgement)) else {})
    row |= {} if judgement.active_ms is None else {"WorkTimeInSeconds": judgement.active_ms / 1000}
    row |= {(k if k in _BESIDE else f"Input.{k}"): v for k, v in columns_of(task.meta, is_column).items()}
    if said := files.said(task.prompt):
        row["Input.prompt"] = said
    if pictures := files.images_of(task.prompt):
        row["Input.image"] = pictures[0] if len(pictures) == 1 else pictures
    row |= {f"Input.{n}": files.spoken(c) for n, c in zip(_names(task), task.candidates)}
    if len(task.candidates) == 2 and all(c.origin.get("model") for c in task.candidates):
        row |= {f"Input.model_{s}": c.origin["model"] for s, c in zip("ab", task.candidates)}
    return row | ({"Answer.reason": judgement.reason} if judgement.reason else {})


def _names(task: Task) -> list[str]:
    return [f"answer{k + 1}" for k in range(len(task.candidates))]


def _answer(task: Task, judgement: Judgement) -> dict[str, Any]:
    answer, scheme = judgement.answer, files.scheme_of(task, task.kind)
    if isinstance(answer, Choice):
        return {f"Answer.{scheme}": word_of(answer)}
    if isinstance(answer, Ranks):
        return {f"Answer.{scheme}": order_text(answer, _names(task))}
    scores = answer.scores if isinstance(answer, Scores) else {}
    split = {name: name.partition(":") for name in scores}
    return {f"Answer.{base if colon else name}": word if colon else scores[name] for name, (base, colon, word) in split.items()}
