"""Tables of votes as crowds leave them: ``task, worker, label``; ``worker, left, right, label|winner``; one column an annotator.

Read for this: the columns of crowd-kit's data (``task, worker, label`` and ``worker, left, right, label``, where the label is the winning
side itself), public sets of rows with ``annotator1 .. annotator3`` (0 a tie, 1 the first, 2 the second). Other names that mean the same
are understood (``_WORKERS``, ``_TASKS``, ``_LABELS``). Columns of the item are those of ``items``; any other stays in the vote's ``meta``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.left_out import LeftOut
from keel.data.rows import RawRow
from keel.data.sources import Source, read_plain
from keel.feedback.exchange import files
from keel.feedback.exchange.answers import REASONS, Said, add, form, order_text, word_of
from keel.feedback.exchange.beside import columns_of, meta_of
from keel.feedback.exchange.gather import Gather, Vote
from keel.feedback.exchange.imported import Imported, digest
from keel.feedback.exchange.items import IMAGES, PROMPTS, Item, is_column, item_of, make_prompt
from keel.feedback.exchange.said import number_of, plain_word, utc
from keel.types.judgements import Choice, Chosen, Judgement, Ranks, Scores, Task
from keel.types.records import Candidate

NAME = "crowd_csv"
_WORKERS = ("worker", "worker_id", "workerid", "annotator", "annotator_id", "performer", "assessor", "user", "user_id", "prolific_pid")
_TASKS = ("task", "task_id", "item", "item_id", "id", "question_id", "example_id")
_LABELS = ("label", "winner", "choice", "preference", "vote", "rating", "score", "ranking", "rank_order")
_TIMES = ("time", "timestamp", "at", "created_at", "submitted_at", "submit_time")
_WIDE = re.compile(r"(?i)^(?:annotator|rater|worker|judge)[ _-]?(\d+)$")
_MEANT = frozenset((*_WORKERS, *_TASKS, *_LABELS, *_TIMES, "active_ms"))
_ANSWER = "score."


def _is_taken(name: str) -> bool:
    """Has a table of votes a meaning for this column, beside those of an item?"""
    low = name.lower()
    return not is_column(name) and (
        low in _MEANT or low.startswith(_ANSWER) or plain_word(name) in REASONS or _WIDE.match(name) is not None
    )


def fits(values: Mapping[str, Any]) -> bool:
    names = {k.lower() for k in values}
    sides, named = {"left", "right"} <= names, bool(names & set(_TASKS))
    voted = bool(names & set(_LABELS)) and bool(names & set(_WORKERS))
    return (voted and (sides or named)) or any(_WIDE.match(k) for k in values)


def read(path: Path, content: bytes | None = None) -> Imported:
    """A label that names a side, a model or an answer's own text is a choice; a number about a single answer the score ``label``, a word
    the category ``label:word``. Rows that name the same two answers on other sides are one task, the sides are the display order."""
    source = read_plain(path, content)
    gather = Gather(NAME, str(path))
    return votes(source, gather)


def votes(source: Source, gather: Gather, worker: str = "") -> Imported:
    """The votes of a table. ``worker``: the column of the annotators where it is known."""
    gather.bad_rows(source.bad)
    for row in source.rows:
        known = {k.lower(): k for k in row.values}
        name = next((str(row.values[known[t]]) for t in _TASKS if t in known and row.values[known[t]] is not None), "")
        with gather.reading(name or f"row {row.line}", row.place):
            wide = [k for k in row.values if _WIDE.match(k)]
            _wide(row, gather, name, wide) if wide and not worker else _row(row, gather, name, worker)
    return gather.done()


def _split(row: RawRow, worker: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Columns of the item and of the answer, and which column is the worker's and the time's."""
    known = {k.lower(): k for k in row.values}
    by = worker or next((known[w] for w in _WORKERS if w in known), "")
    at = next((known[t] for t in _TIMES if t in known), "")
    task = next((known[t] for t in _TASKS if t in known), "")
    answer = {k: v for k, v in row.values.items() if k.lower() in _LABELS or k.lower().startswith(_ANSWER) or plain_word(k) in REASONS}
    skip = {by, at, task, *answer, "active_ms"}
    return {k: v for k, v in row.values.items() if k not in skip}, answer, {"by": by, "at": at, "task": task}


def _row(row: RawRow, gather: Gather, name: str, worker: str) -> None:
    columns, answer, place = _split(row, worker)
    if not place["by"]:
        raise FieldError("worker", f"no column says who answered (there are: {', '.join(row.values)})")
    by = gather.annotator(row.values.get(place["by"]))
    if not any(v is not None for k, v in answer.items() if plain_word(k) not in REASONS):
        raise FieldError("label", "is empty: nothing was answered")
    shown, item, order = _items(columns, row, name)
    source_id = item.prompt.source_id
    said, reason = form({k.removeprefix("score."): v for k, v in answer.items()}, shown, gather, source_id, row.place)
    milliseconds = number_of(row.values.get("active_ms"))
    vote = Vote(
        "",
        by,
        Choice("cannot"),
        at=utc(place["at"], row.values.get(place["at"]) if place["at"] else None),
        place=row.place,
        display_order=order,
        active_ms=None if milliseconds is None else round(milliseconds),
        reason=reason,
        meta=dict(item.rest),
    )
    for one in said:
        add(gather, item, source_id, _canonical(one, order), vote, {})


def _wide(row: RawRow, gather: Gather, name: str, wide: list[str]) -> None:
    """One column an annotator: numbers are 0 (tie), 1, 2."""
    columns, _, place = _split(row, "-")
    taken = {*wide, *((place["task"],) if place["task"] else ())}
    shown, item, order = _items({k: v for k, v in columns.items() if k not in taken}, row, name)
    source_id = item.prompt.source_id
    for column in wide:
        value = row.values[column]
        with gather.reading(f"{source_id}/{column}", row.place):
            if value is None:
                raise FieldError(column, "is empty: this annotator has not answered")
            number = number_of(value)
            choice = shown.choice(value, by_text=number is None)
            if choice is None and (number is None or len(item.candidates) != 1):
                raise FieldError(column, f"{str(value)[:40]!r} says nothing of these {len(item.candidates)} answers that is understood")
            said = Said("label", "pairwise", choice) if choice else Said("rating", "rating", Scores(0, {"label": number or 0.0}), 0)
            vote = Vote("", gather.annotator(column), Choice("cannot"), place=row.place, display_order=order, meta=dict(item.rest))
            add(gather, item, source_id, _canonical(said, order), vote, {})


def _items(columns: Mapping[str, Any], row: RawRow, name: str) -> tuple[Item, Item, tuple[int, ...]]:
    """The item of a row as it stands there, the same in canonical order, and which of its answers stood where. ``A`` or ``2`` speak of the
    first, names and texts hold for both. An item that is only named has its name as its answer."""
    try:
        item = item_of(columns, row.folder, name)
    except FieldError as error:
        if error.field != "answers" or not name:
            raise
        asked = next((columns[k] for k in columns if k.lower() in PROMPTS), None)
        pictures = next((columns[k] for k in columns if k.lower() in IMAGES), None)
        prompt = make_prompt(asked, pictures, row.folder, name)
        rest = {k: v for k, v in columns.items() if k.lower() not in (*PROMPTS, *IMAGES) and v is not None}
        answer = Candidate(digest("candidate", prompt.prompt_id, name), name, {"named_only": True})
        item = Item(prompt, (answer,), (("label",),), meta_of(meta_of(rest, is_column), _is_taken))
        return item, item, (0,)
    item = replace(item, rest=meta_of(item.rest, _is_taken))
    if not name:
        item = replace(item, prompt=replace(item.prompt, source_id=_pair_id(item)))
    if [own[0] for own in item.names] != ["left", "right"]:
        return item, item, tuple(range(len(item.candidates)))
    first = sorted((0, 1), key=lambda k: item.candidates[k].candidate_id)
    turned = replace(item, candidates=tuple(item.candidates[k] for k in first), names=tuple(item.names[k] for k in first))
    return item, turned, (first.index(0), first.index(1))


def _canonical(said: Said, order: tuple[int, ...]) -> Said:
    """What was said of the answers as they stood, of the canonical ones. ``order``: which of these stood where."""
    only, answer = None if said.only is None else order[said.only], said.answer
    if isinstance(answer, Choice):
        sides: tuple[Chosen, Chosen] = ("first", "second")
        chosen = sides[order[sides.index(answer.chosen)]] if answer.chosen in sides else answer.chosen
        return replace(said, scheme="label", answer=replace(answer, chosen=chosen))
    if isinstance(answer, Ranks):
        return replace(said, answer=Ranks(tuple(tuple(order[k] for k in bucket) for bucket in answer.buckets)))
    return replace(said, only=only)


def _pair_id(item: Item) -> str:
    return digest(item.prompt.prompt_id, sorted(c.candidate_id for c in item.candidates))


# --- writing --------------------------------------------------------------------------------------------------------------------


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """One row a vote. Left out: spans, votes of judges, tasks without votes."""
    return write_votes(imported, path, "worker")


def write_votes(imported: Imported, path: Path, worker: str) -> tuple[LeftOut, ...]:
    """As ``write``; ``worker`` is the column of the annotators."""
    kept, left = files.unfit(imported, ("pairwise", "ranking", "rating"), "a table of votes has no place for it", ("work",))
    people = {a.annotator_id for a in imported.annotators if a.kind == "person"}
    rows: list[dict[str, Any]] = []
    for task, judgement in kept:
        if judgement is None or judgement.by not in people:
            name = task.task_id if judgement is None else judgement.event_id
            left.append(LeftOut(name, task.source_id, "worker: " + ("nobody has answered" if judgement is None else "is no person")))
        else:
            rows.append(_written(task, judgement, worker))
    files.write_csv(path, rows, ("task", worker))
    return tuple(left)


def _written(task: Task, judgement: Judgement, worker: str) -> dict[str, Any]:
    row: dict[str, Any] = {"task": task.source_id, worker: files.foreign(judgement.by)}
    if said := files.said(task.prompt):
        row["prompt"] = said
    if pictures := files.images_of(task.prompt):
        row["image"] = pictures[0] if len(pictures) == 1 else pictures
    answer, shown = judgement.answer, judgement.display_order
    if isinstance(answer, Choice):
        left, right = (task.candidates[k] for k in shown)
        row |= {"left": files.spoken(left), "right": files.spoken(right)}
        row |= {f"model_{side}": c.origin["model"] for side, c in (("left", left), ("right", right)) if c.origin.get("model")}
        sides = {"first": "left" if shown == (0, 1) else "right", "second": "right" if shown == (0, 1) else "left"}
        row["label"] = sides.get(answer.chosen, word_of(answer))
    elif isinstance(answer, Ranks):
        names = [f"answer{k + 1}" for k in range(len(task.candidates))]
        row |= {n: files.spoken(c) for n, c in zip(names, task.candidates)}
        row["ranking"] = order_text(answer, names)
    elif isinstance(answer, Scores):
        row |= {} if task.candidates[0].origin.get("named_only") else {"text": files.spoken(task.candidates[0])}
        row |= _scores(answer.scores)
    row |= {"time": at} if (at := files.at(judgement)) else {}
    row |= {} if judgement.active_ms is None else {"active_ms": judgement.active_ms}
    return (
        row
        | ({"reason": judgement.reason} if judgement.reason else {})
        | columns_of(judgement.meta, lambda k: is_column(k) or _is_taken(k))
    )


def _scores(scores: Mapping[str, float]) -> dict[str, Any]:
    """``label`` and categories of it are the label itself, other dimensions columns of their own."""
    found: dict[str, Any] = {}
    for name, value in scores.items():
        base, colon, word = name.partition(":")
        if base == "label":
            found["label"] = word if colon else value
        elif colon and value == 1.0:
            found[f"score.{base}"] = word
        else:
            found[f"score.{name}"] = value
    return found
