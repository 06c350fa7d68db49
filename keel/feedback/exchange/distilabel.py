"""distilabel's ratings of several answers: ``instruction, generations, ratings, rationales, model_name`` (and ``generation_models``).

Read for this: its task UltraFeedback, whose columns these are (``rationales-for-ratings`` with the aspects helpfulness and truthfulness; a
rating that the judge did not give is null). ``order``-like columns and those of other tasks stay in ``meta``.
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
from keel.feedback.exchange.answers import add, scores_said
from keel.feedback.exchange.beside import columns_of, meta_of
from keel.feedback.exchange.gather import Gather, Vote, short
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.items import is_column, item_of
from keel.feedback.exchange.said import number_of
from keel.types.judgements import Choice, Judgement, Scores, Task

NAME = "distilabel"
_OURS = ("id", "ratings", "rationales", "rationales-for-ratings", "model_name")
_is_ours = frozenset(_OURS).__contains__


def fits(values: Mapping[str, Any]) -> bool:
    return all(isinstance(values.get(k), list) for k in ("generations", "ratings"))


def read(path: Path, content: bytes | None = None) -> Imported:
    """Each rating is a judgement of one answer by the judge ``model_name``, the dimension ``rating``; rationales are its reasons."""
    gather = Gather(NAME, str(path))
    return gather.read(read_plain(path, content), _name, lambda row: _row(row, gather, _name(row)))


def _name(row: RawRow) -> str:
    return str(row.values.get("id") or short(row.file, row.line))


def _row(row: RawRow, gather: Gather, source_id: str) -> None:
    values = row.values
    generations, ratings = values.get("generations"), values.get("ratings")
    if not isinstance(generations, list) or not isinstance(ratings, list):
        raise FieldError("ratings", "generations and ratings must be lists")
    if len(generations) != len(ratings):
        raise FieldError("ratings", f"{len(ratings)} ratings for {len(generations)} generations")
    item = item_of({k: v for k, v in values.items() if k not in _OURS}, row.folder, source_id)
    judge = str(values.get("model_name") or "judge")
    by = gather.annotator(judge, "judge", identity=judge)
    reasons = values.get("rationales-for-ratings") or values.get("rationales")
    reasons = reasons if isinstance(reasons, list) else []
    meta = meta_of(item.rest, _is_ours)
    for k, rating in enumerate(ratings):
        number = number_of(rating)
        if number is None:
            gather.leave_out(f"{source_id}/generations.{k}", row.place, f"ratings.{k}", f"the judge gave no rating ({rating!r})")
            continue
        reason = str(reasons[k]) if k < len(reasons) and reasons[k] is not None else ""
        vote = Vote("", by, Choice("cannot"), place=row.place, reason=reason)
        add(gather, item, source_id, scores_said({k: {"rating": number}})[0], vote, meta)


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """One row a rating, of judges. Left out: other kinds, people's ratings, scores other than ``rating``."""
    kept, left = files.unfit(imported, ("rating",), "distilabel's rows hold ratings", ("work",))
    judges = {a.annotator_id for a in imported.annotators if a.kind != "person"}
    rows: list[dict[str, Any]] = []
    for task, judgement in kept:
        if judgement is None:
            left.append(LeftOut(task.task_id, task.source_id, "ratings: nobody has rated it"))
            continue
        answer = judgement.answer
        if judgement.by not in judges or not isinstance(answer, Scores) or set(answer.scores) != {"rating"}:
            why = "by: distilabel's ratings are a judge's" if judgement.by not in judges else "scores: only `rating` has a column there"
            left.append(LeftOut(judgement.event_id, judgement.source_id, why))
            continue
        rows.append(_written(task, judgement, answer))
    files.write_lines(path, rows)
    return tuple(left)


def _written(task: Task, judgement: Judgement, answer: Scores) -> dict[str, Any]:
    candidate = task.candidates[answer.candidate]
    row: dict[str, Any] = {"id": task.source_id, "instruction": files.said(task.prompt)}
    row |= columns_of(task.meta, lambda k: is_column(k) or _is_ours(k))
    if pictures := files.images_of(task.prompt):
        row["images"] = pictures
    row |= {"generations": [files.spoken(candidate)], "ratings": [answer.scores["rating"]], "rationales": [judgement.reason or None]}
    if candidate.origin.get("model"):
        row["generation_models"] = [candidate.origin["model"]]
    return row | {"model_name": files.foreign(judgement.by)}
