"""Argilla's records: ``{id, fields, metadata, suggestions: {question: {value, score, agent}}, responses: {question: [{value, user_id}]}}``.

Read for this: the modules of its Python package that export records to lists, dictionaries and JSON (``records/_io``, ``Record.to_dict``),
its tests of values (a rating is a number, a ranking a list of names, spans a list of ``{start, end, label}``), the guide on export. Older
rankings are lists of ``{value, rank}``. The export has no times and no ids of responses. What kind a question is stands in the data
set's settings, not in the records: it is told from its values.
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
from keel.feedback.exchange.answers import REASONS, Said, add, form, spans_said, word_of
from keel.feedback.exchange.gather import Gather, Vote
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.items import Item, item_of
from keel.feedback.exchange.said import number_of, plain_word, span_of
from keel.types.judgements import Choice, Judgement, Ranks, Scores, Spans, Task

NAME = "argilla"


def fits(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("fields"), dict) and any(k in values for k in ("responses", "suggestions"))


def read(path: Path, content: bytes | None = None) -> Imported:
    """Responses become judgements by people, suggestions by a judge named after their agent. Each question is one of its own:
    ``imported:argilla:QUESTION``. Discarded and unfinished responses are left out by name."""
    gather = Gather(NAME, str(path))
    return gather.read(read_plain(path, content), lambda row: row.values.get("id"), lambda row: _record(row, gather))


def _record(row: RawRow, gather: Gather) -> None:
    fields = row.values.get("fields")
    if not isinstance(fields, dict):
        raise FieldError("fields", "must be an object")
    source_id = str(row.values.get("id") or row.values.get("_server_id") or f"row {row.line}")
    gather.once(source_id, fields, "fields")
    item = item_of(fields, row.folder, source_id)
    metadata, suggestions = (row.values.get(k) or {} for k in ("metadata", "suggestions"))
    if not isinstance(metadata, dict) or not isinstance(suggestions, dict):
        raise FieldError("metadata", "metadata and suggestions must be objects")
    meta = {**item.rest, **metadata}
    by_user = _by_user(row, gather, source_id)
    for (by, status), answers in by_user.items():
        if status not in ("submitted", "None", ""):
            gather.leave_out(f"{source_id}/{by}", row.place, "status", f"the response is {status}, not submitted")
            continue
        said, reason = _form(answers, item, gather, source_id, row.place)
        vote = Vote("", by, Choice("cannot"), place=row.place, reason=reason)
        for one in said:
            add(gather, item, source_id, one, vote, meta)
    for question, suggestion in suggestions.items():
        with gather.reading(f"{source_id}/{question}", row.place):
            _suggestion(question, suggestion, item, gather, source_id, row.place, meta)
    if not by_user and not suggestions:
        gather.leave_out(source_id, row.place, "responses", "nobody has answered")


def _by_user(row: RawRow, gather: Gather, source_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(annotator, status) -> answers by question."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    responses = row.values.get("responses") or {}
    if not isinstance(responses, dict):
        raise FieldError("responses", "must be an object by question")
    for question, entries in responses.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            with gather.reading(f"{source_id}/{question}", row.place):
                if not isinstance(entry, dict) or "value" not in entry:
                    raise FieldError(f"responses.{question}", "must be objects with value and user_id")
                by = gather.annotator(entry.get("user_id"))
                answers = found.setdefault((by, str(entry.get("status") or "")), {})
                if question in answers:
                    raise FieldError(f"responses.{question}", f"{by} answers twice; the first is taken")
                answers[question] = entry["value"]
    return found


def _form(answers: Mapping[str, Any], item: Item, gather: Gather, source_id: str, place: str) -> tuple[list[Said], str]:
    """Answers of one user: rankings and spans by their values, the rest as any form."""
    said: list[Said] = []
    rest: dict[str, Any] = {}
    for question, value in answers.items():
        with gather.reading(f"{source_id}/{question}", place):
            if isinstance(value, list) and value and all(isinstance(v, dict) and "start" in v for v in value):
                said.append(_spans(question, value, item))
            elif isinstance(value, list) and value and all(isinstance(v, dict) and "rank" in v for v in value):
                said.append(Said(question, "ranking", _ranked(question, value, item)))
            elif isinstance(value, list) and len(item.candidates) > 1:
                said.append(Said(question, "ranking", item.ranks(question, [[v] for v in value])))
            else:
                rest[question] = value
    more, reason = form(rest, item, gather, source_id, place)
    return [*said, *more], reason


def _spans(question: str, value: list[Any], item: Item) -> Said:
    about = item.place_of(question)
    if about is None:
        raise FieldError(question, f"its name tells none of the {len(item.candidates)} answers whose spans these are")
    text = item.candidates[about].text
    return spans_said([span_of(question, about, text, v["start"], v.get("end"), str(v.get("label"))) for v in value])


def _ranked(question: str, value: list[Any], item: Item) -> Ranks:
    ranks = [number_of(v.get("rank")) for v in value]
    if None in ranks:
        raise FieldError(question, "every value needs a rank")
    order = sorted({r for r in ranks if r is not None})
    return item.ranks(question, [[v["value"] for v, r in zip(value, ranks) if r == rank] for rank in order])


def _suggestion(question: str, value: Any, item: Item, gather: Gather, source_id: str, place: str, meta: Mapping[str, Any]) -> None:
    if not isinstance(value, dict) or value.get("value") is None:
        raise FieldError(f"suggestions.{question}", "holds no value")
    if plain_word(question) in REASONS:
        raise FieldError(f"suggestions.{question}", "a suggested text judges nothing")
    agent = str(value.get("agent") or "suggestion")
    by = gather.annotator(agent, "judge", identity=agent)
    said, reason = _form({question: value["value"]}, item, gather, source_id, place)
    vote = Vote(
        "", by, Choice("cannot"), place=place, reason=reason, meta={"score": value["score"]} if value.get("score") is not None else {}
    )
    for one in said:
        add(gather, item, source_id, one, vote, meta)


# --- writing --------------------------------------------------------------------------------------------------------------------


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """One record an item. Left out: times and ids are not, they have no place there and are not needed; ranks with ties and spans of one of
    several answers are, by name."""
    kept, left = files.unfit(imported, ("pairwise", "ranking", "rating", "spans"), "", ("work",))
    people = {a.annotator_id for a in imported.annotators if a.kind == "person"}
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for task, judgement in kept:
        key = (task.source_id, task.prompt.prompt_id, tuple(c.candidate_id for c in task.candidates))
        record = records.setdefault(key, _record_row(task))
        if judgement is None:
            continue
        values = _values(task, judgement)
        if judgement.repeat or not values:
            why = "a second answer of one person has no place there" if judgement.repeat else "this answer cannot be written there"
            left.append(LeftOut(judgement.event_id, judgement.source_id, f"answer: {why}"))
        elif judgement.by in people:
            _respond(record["responses"], values, judgement)
        else:
            agent = {"score": judgement.meta.get("score"), "agent": files.foreign(judgement.by)}
            if taken := [q for q in values if q in record["suggestions"]]:
                left.append(LeftOut(judgement.event_id, judgement.source_id, f"suggestions.{taken[0]}: one judge's is there already"))
                continue
            record["suggestions"] |= {question: {"value": value, **agent} for question, value in values.items()}
    files.write_json(path, list(records.values()))
    return tuple(left)


def _respond(responses: dict[str, list[Any]], values: dict[str, Any], judgement: Judgement) -> None:
    if judgement.reason:
        values = {**values, "reason": judgement.reason}
    for question, value in values.items():
        entry = {"value": value, "user_id": files.foreign(judgement.by), "status": "submitted"}
        known = responses.setdefault(question, [])
        if entry not in known:
            known.append(entry)


def _record_row(task: Task) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": said} if (said := files.said(task.prompt)) else {}
    if pictures := files.images_of(task.prompt):
        fields |= {"image": pictures[0]} if len(pictures) == 1 else {"images": pictures}
    names = ("model_a", "model_b")
    fields |= {f"response_{k + 1}": files.spoken(c) for k, c in enumerate(task.candidates)}
    if len(task.candidates) == 2 and all(set(c.origin) == {"model"} for c in task.candidates):
        fields |= {n: c.origin["model"] for n, c in zip(names, task.candidates)}
    return {"id": task.source_id, "fields": fields, "metadata": dict(task.meta), "suggestions": {}, "responses": {}, "vectors": {}}


def _values(task: Task, judgement: Judgement) -> dict[str, Any]:
    scheme, answer = files.scheme_of(task, task.kind), judgement.answer
    if isinstance(answer, Choice):
        return {scheme: word_of(answer)}
    if isinstance(answer, Ranks):
        if any(len(bucket) > 1 for bucket in answer.buckets):
            pairs = [{"value": f"response_{k + 1}", "rank": r} for r, b in enumerate(answer.buckets, start=1) for k in b]
            return {scheme: pairs}
        return {scheme: [f"response_{b[0] + 1}" for b in answer.buckets]}
    if isinstance(answer, Scores):
        return dict(answer.scores)
    if not isinstance(answer, Spans) or len(task.candidates) > 1 or not answer.spans:
        return {}
    return {scheme: [{"start": s.start, "end": s.end, "label": s.kind} for s in answer.spans]}
