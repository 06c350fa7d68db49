"""Potato's folder of a project: one ``user_state.json`` an annotator, and the files of items that they were shown.

Read for this: its documentation of pairwise annotation (``{"selection": "A"}``, ``{"scale_value": "-2"}``, negative = the left one), of
ranking (``{"rank_order": "B,D=A,C"}``) and of export formats (``annotation_output/USER/user_state.json``, spans ``{start, end, label,
text, target_field}``), its tests and programs that read user states: labels stand by schema, ``{schema: {name: value}}``, or as pairs
``[{"schema", "name"}, value]``. There are no times.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.data.errors import FieldError
from keel.data.left_out import LeftOut
from keel.data.rows import RawRow
from keel.data.sources import read_plain
from keel.feedback.exchange import files
from keel.feedback.exchange.answers import Said, add, form, rank_order, spans_said
from keel.feedback.exchange.beside import columns_of, meta_of
from keel.feedback.exchange.gather import Gather, Vote
from keel.feedback.exchange.imported import Imported, digest
from keel.feedback.exchange.items import Item, is_column, item_of
from keel.feedback.exchange.said import number_of, span_of
from keel.types.judgements import Choice, Judgement, Ranks, Scores, Spans, Task

NAME = "potato"
STATE = "user_state.json"
_LONGEST = 60  # characters of a folder's name
_IDS = ("id", "instance_id", "item_id")
_is_id = frozenset(_IDS).__contains__
_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")


def fits(path: Path) -> bool:
    return path.is_dir() and any(path.rglob(STATE))


def read(path: Path, content: bytes | None = None) -> Imported:
    """The states of all users under a folder, with the items in the other files under it (rows with an ``id``). Each schema is a question
    of its own. A slider's place becomes a choice; how far it was moved stays in ``meta.scale_value``: its ends are not told."""
    if content is not None or not path.is_dir():
        raise DataError(f"{path}: a Potato project is a folder", f"give the folder that holds the items and annotation_output/USER/{STATE}")
    gather = Gather(NAME, str(path))
    states = sorted(path.rglob(STATE))
    if not states:
        raise DataError(f"{path}: no {STATE} in this folder", "give the project's folder, annotation_output in it")
    items = _items(path, gather)
    answered = {name for state in states for name in _state(state, items, gather)}
    for name, row in items.items():
        if name not in answered:
            gather.leave_out(name, row.place, "annotations", "nobody has annotated this item")
    return gather.done()


def _items(folder: Path, gather: Gather) -> dict[str, RawRow]:
    found: dict[str, RawRow] = {}
    for file in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES and p.name != STATE and "exports" not in p.parts):
        source = read_plain(file)
        gather.bad_rows(source.bad)
        for row in source.rows:
            name = next((str(row.values[k]) for k in _IDS if row.values.get(k) is not None), None)
            if name is None:
                gather.leave_out("", row.place, "id", "this row has none: no annotation can refer to it")
            elif found.setdefault(name, row).values != row.values:
                gather.leave_out(name, row.place, "id", f"stands for another item at {found[name].place}; the first is taken")
    return found


def _state(file: Path, items: Mapping[str, RawRow], gather: Gather) -> list[str]:
    """Note what one user has answered; returns the items' names."""
    place = str(file)
    names: list[str] = []
    with gather.reading("", place):
        try:
            state = json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, OSError) as error:
            raise FieldError("", f"cannot be read: {error}") from None
        if not isinstance(state, dict):
            raise FieldError("", "must be a JSON object")
        by = gather.annotator(state.get("user_id") or file.parent.name)
        labels, spans = (state.get(f"instance_id_to_{k}_to_value") or {} for k in ("label", "span"))
        if not isinstance(labels, dict) or not isinstance(spans, dict):
            raise FieldError("instance_id_to_label_to_value", "labels and spans must be objects by item")
        names = list(dict.fromkeys([*labels, *spans]))
        for name in names:
            with gather.reading(f"{name}/{files.foreign(by)}", place):
                if name not in items:
                    raise FieldError(name, "is no item of the files in this folder: its texts are not known")
                row = items[name]
                item = item_of({k: v for k, v in row.values.items() if k not in _IDS}, row.folder, name)
                item = replace(item, rest=meta_of(item.rest, _is_id))
                _instance(name, item, by, (labels.get(name), spans.get(name)), gather, place)
    return names


def _instance(name: str, item: Item, by: str, marked: tuple[Any, Any], gather: Gather, place: str) -> None:
    record = f"{name}/{files.foreign(by)}"
    rest: dict[str, Any] = {}
    judged: list[tuple[Said, dict[str, Any]]] = []
    for schema, value in _by_schema(marked[0]).items():
        with gather.reading(record, place):
            said, meta = _schema(schema, value, item, rest)
            judged += [] if said is None else [(said, meta)]
    more, reason = form(rest, item, gather, record, place)
    judged += [(said, {}) for said in more]
    if marked[1]:
        with gather.reading(record, place):
            judged.append((_spans(marked[1], item), {}))
    for said, meta in judged:
        add(gather, item, name, said, Vote("", by, Choice("cannot"), place=place, reason=reason, meta=meta))


def _by_schema(labels: Any) -> dict[str, dict[str, Any]]:
    """Labels as ``{schema: {name: value}}``, in whichever of the two ways they are written."""
    found: dict[str, dict[str, Any]] = {}
    if isinstance(labels, list):
        for entry in labels:
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], dict):
                raise FieldError("instance_id_to_label_to_value", "must be pairs of {schema, name} and a value")
            found.setdefault(str(entry[0].get("schema")), {})[str(entry[0].get("name"))] = entry[1]
    elif isinstance(labels, dict):
        for schema, value in labels.items():
            inner = value.get("labels", value) if isinstance(value, dict) else {"value": value}
            found[schema] = dict(inner) if isinstance(inner, dict) else {"value": inner}
    return found


def _schema(schema: str, value: Mapping[str, Any], item: Item, rest: dict[str, Any]) -> tuple[Said | None, dict[str, Any]]:
    if value.get("selection") is not None:
        choice = item.choice(value["selection"], by_text=False)
        if choice is None:
            raise FieldError(schema, f"{str(value['selection'])[:40]!r} is no choice between {len(item.candidates)} answers")
        return Said(schema, "pairwise", choice), {}
    if value.get("scale_value") is not None:
        scale = number_of(value["scale_value"])
        if scale is None or len(item.candidates) != 2:
            raise FieldError(schema, f"scale_value {value['scale_value']!r} of {len(item.candidates)} answers is no preference")
        chosen = Choice("tie" if scale == 0 else "first" if scale < 0 else "second")
        return Said(schema, "pairwise", chosen), {"scale_value": scale}
    if value.get("rank_order") is not None:
        return Said(schema, "ranking", rank_order(schema, value["rank_order"], item)), {}
    one = next(iter(value.items()), None)
    if len(value) == 1 and one is not None:
        name, given = one
        ticked = given is True or str(given).lower() == "true"
        number = number_of(given)
        rest[schema] = name if ticked else given if number is None or not name.isdecimal() else number
    else:
        rest |= {schema: dict(value)} if value else {}
    return None, {}


def _spans(marked: Any, item: Item) -> Said:
    entries: list[Any] = []
    groups = marked.values() if isinstance(marked, dict) else [marked]
    for group in groups:
        for entry in group if isinstance(group, list) else [group]:
            entries.append(entry[0] if isinstance(entry, list) and entry else entry)
    found = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FieldError(f"span.{i}", "must be an object with start, end and label")
        about = item.place_of(str(entry.get("target_field") or entry.get("field") or ""))
        if about is None:
            raise FieldError(f"span.{i}", f"target_field {entry.get('target_field')!r} is none of the answers")
        kind = str(entry.get("label", entry.get("name")))
        text = item.candidates[about].text
        found.append(span_of(f"span.{i}", about, text, entry.get("start"), entry.get("end"), kind, entry.get("text")))
    return spans_said(found)


# --- writing --------------------------------------------------------------------------------------------------------------------


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """A folder with ``data/items.jsonl`` and a state for every person. Left out: judges' judgements, second answers of one person, times
    (they have no place), choices that are neither side nor tie."""
    kept, left = files.unfit(imported, ("pairwise", "ranking", "rating", "spans"), "", ("work",))
    people = {a.annotator_id for a in imported.annotators if a.kind == "person"}
    items: dict[str, dict[str, Any]] = {}
    states: dict[str, dict[str, Any]] = {}
    for task, judgement in kept:
        name, row = task.source_id or task.task_id, _item_row(task)
        if items.setdefault(name, {"id": name, **row}) != {"id": name, **row}:
            name = f"{name}~{digest(row)[:8]}"  # another item has this id
            items.setdefault(name, {"id": name, **row})
        why = _no_place(judgement, people)
        if why:
            left.append(LeftOut(task.task_id if judgement is None else judgement.event_id, task.source_id, why))
        elif judgement is not None:
            state = states.setdefault(judgement.by, {"user_id": files.foreign(judgement.by)})
            _note(state, replace(task, source_id=name), judgement)
    folders = _folders(states)
    files.write_lines(path / "data" / "items.jsonl", items.values())
    for by, state in states.items():
        files.write_json(path / "annotation_output" / folders[by] / STATE, state)
    return tuple(left)


def _folders(people: Iterable[str]) -> dict[str, str]:
    """A folder's name for each: their own where it is short and plain and nobody else's, also where case does not count."""
    plain = {by: "".join(c if c.isalnum() else "_" for c in files.foreign(by))[:_LONGEST] for by in people}
    used = Counter(name.casefold() for name in plain.values())
    return {by: name if name and used[name.casefold()] == 1 else f"{name}~{digest(by)[:8]}" for by, name in plain.items()}


def _no_place(judgement: Judgement | None, people: set[str]) -> str:
    if judgement is None:
        return "user_id: nobody has answered"
    if judgement.by not in people:
        return "user_id: is no person"
    if judgement.repeat:
        return "repeat: a second answer of one person has no place there"
    if isinstance(judgement.answer, Choice) and judgement.answer.chosen in ("both_bad", "cannot"):
        return f"selection: there is no word for {judgement.answer.chosen} there"
    return ""


def _item_row(task: Task) -> dict[str, Any]:
    row: dict[str, Any] = {
        **columns_of(task.meta, lambda k: is_column(k) or _is_id(k)),
        **({"prompt": said} if (said := files.said(task.prompt)) else {}),
    }
    if pictures := files.images_of(task.prompt):
        row["images"] = pictures
    if any(c.origin for c in task.candidates):
        return row | {"responses": [{"text": files.spoken(c), **c.origin} for c in task.candidates]}
    return row | {"responses": [files.spoken(c) for c in task.candidates]}


def _note(state: dict[str, Any], task: Task, judgement: Judgement) -> None:
    scheme, answer = files.scheme_of(task, task.kind), judgement.answer
    labels = state.setdefault("instance_id_to_label_to_value", {}).setdefault(task.source_id, {})
    if isinstance(answer, Choice):
        scale = judgement.meta.get("scale_value")
        words = {"first": "A", "second": "B", "tie": "tie"}
        labels[scheme] = {"selection": words[answer.chosen]} if scale is None else {"scale_value": str(scale)}
    elif isinstance(answer, Ranks):
        names = [f"responses.{k}" for k in range(len(task.candidates))]
        labels[scheme] = {"rank_order": ",".join("=".join(names[k] for k in b) for b in answer.buckets)}
    elif isinstance(answer, Scores):
        for name, value in answer.scores.items():
            base, colon, word = name.partition(":")
            labels[base] = {word: "true"} if colon else {"value": value}
    elif isinstance(answer, Spans):
        spans = state.setdefault("instance_id_to_span_to_value", {}).setdefault(task.source_id, {})
        texts = [c.text for c in task.candidates]
        spans[scheme] = [
            {
                "start": s.start,
                "end": s.end,
                "label": s.kind,
                "text": texts[s.candidate][s.start : s.end],
                "target_field": f"responses.{s.candidate}",
            }
            for s in answer.spans
        ]
    if judgement.reason:
        labels["reason"] = {"value": judgement.reason}
