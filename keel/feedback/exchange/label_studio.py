"""Label Studio's JSON export: ``[{id, data, annotations: [{id, result, completed_by, created_at, lead_time, ...}], predictions}]``.

Read for this: its guide's page on the task format, the templates for pairwise comparison, human preferences, response grading and the LLM
ranker, the pages of the tags Pairwise and Ranker, and records of ``was_cancelled`` in its API. A result is ``{from_name, to_name, type,
value}``; values are ``{"selected": "left"}`` (pairwise), ``{"ranker": [ids] or {bucket: [ids]}}``, ``{"rating": 4}``, ``{"number": 4}``,
``{"choices": ["tie"]}``, ``{"start", "end", "text", "labels": [..]}`` and ``{"text": [..]}`` (textarea).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.left_out import LeftOut
from keel.data.rows import RawRow
from keel.data.sources import read_plain
from keel.feedback.exchange import files
from keel.feedback.exchange.answers import Said, add, scores_said, spans_said, word_of
from keel.feedback.exchange.beside import columns_of
from keel.feedback.exchange.gather import Gather, Vote
from keel.feedback.exchange.imported import Imported
from keel.feedback.exchange.items import Item, is_column, item_of
from keel.feedback.exchange.said import number_of, span_in_utf16, span_of, utc
from keel.types.judgements import Choice, Judgement, Ranks, Scores, Span, Spans, Task

NAME = "label_studio"
_NO_VOTE: Choice = Choice("cannot")


def fits(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("data"), dict) and any(k in values for k in ("annotations", "predictions", "completions"))


def read(path: Path, content: bytes | None = None) -> Imported:
    """Annotations become judgements by people, predictions judgements by a judge named after ``model_version``. A cancelled (skipped)
    annotation is left out by name; one marked ``ground_truth`` is the task's known answer and a judgement of purpose ``adjudication``.
    Each control of the labelling configuration is a question of its own: ``imported:label_studio:CONTROL``."""
    gather = Gather(NAME, str(path))
    return gather.read(read_plain(path, content), lambda row: row.values.get("id"), lambda row: _task(row, gather))


def _task(row: RawRow, gather: Gather) -> None:
    data = row.values.get("data")
    if not isinstance(data, dict):
        raise FieldError("data", "must be an object")
    source_id = str(row.values["id"]) if row.values.get("id") is not None else f"row {row.line}"
    gather.once(source_id, data, "data")
    annotations = _list("annotations", row.values.get("annotations", row.values.get("completions")))
    predictions = _list("predictions", row.values.get("predictions"))
    item = item_of(data, row.folder, source_id, _compared(annotations, data))
    for kind, entries in (("annotations", annotations), ("predictions", predictions)):
        for i, entry in enumerate(entries):
            name = entry.get("id") if isinstance(entry, dict) else None
            with gather.reading(name if name is not None else f"{source_id}/{kind}.{i}", row.place):
                _annotation(entry, kind, item, gather, source_id, row.place)
    if not annotations and not predictions:
        gather.leave_out(source_id, row.place, "annotations", "nobody has annotated this task")


def _list(name: str, value: Any) -> list[Any]:
    """A list; nothing is an empty one."""
    if value is not None and not isinstance(value, list):
        raise FieldError(name, f"must be a list, is {type(value).__name__}")
    return value or []


def _compared(annotations: Sequence[Any], data: Mapping[str, Any]) -> Sequence[str]:
    """The columns that a pairwise control compares, where they are named like its objects."""
    for annotation in annotations:
        results = annotation.get("result") if isinstance(annotation, dict) else None
        for result in results if isinstance(results, list) else []:
            if isinstance(result, dict) and result.get("type") == "pairwise":
                to = result.get("to_name", "")
                names = to if isinstance(to, list) else [n.strip() for n in str(to).split(",")]
                if len(names) == 2 and all(n in data for n in names):
                    return names
    return ()


def _annotation(entry: Any, kind: str, item: Item, gather: Gather, source_id: str, place: str) -> None:
    if not isinstance(entry, dict):
        raise FieldError(kind, "each must be an object")
    if entry.get("was_cancelled") is True:
        raise FieldError("was_cancelled", "the annotator skipped this task")
    results = entry.get("result", [entry] if "value" in entry else [])
    if not isinstance(results, list) or not results:
        raise FieldError("result", "is empty: nothing was marked")
    judge = kind == "predictions"
    vote = Vote(
        task_id="",
        by=_by(entry, gather, judge),
        answer=_NO_VOTE,
        at=utc("created_at", entry.get("created_at")),
        vote_id=f"{'prediction ' if judge else ''}{entry['id']}" if entry.get("id") is not None else "",
        place=place,
        purpose="adjudication" if entry.get("ground_truth") is True else "work",
        active_ms=None if number_of(entry.get("lead_time")) is None else round(1000 * float(entry["lead_time"])),
        meta={"score": entry["score"]} if entry.get("score") is not None else {},
    )
    found, reason = _results(results, item, gather, source_id, place)
    for said in found:
        task = add(gather, item, source_id, said, replace(vote, reason=reason))
        if vote.purpose == "adjudication":
            gather.expect(task, said.answer)


def _by(entry: Mapping[str, Any], gather: Gather, judge: bool) -> str:
    if judge:
        version = str(entry.get("model_version") or "prediction")
        return gather.annotator(version, "judge", identity=version)
    by = entry.get("completed_by")
    return gather.annotator(by.get("id", by.get("email")) if isinstance(by, dict) else by)


def _results(results: Sequence[Any], item: Item, gather: Gather, source_id: str, place: str) -> tuple[list[Said], str]:
    said: list[Said] = []
    scores: dict[int, dict[str, float]] = {}
    spans: list[Span] = []
    reasons: list[str] = []
    for i, result in enumerate(results):
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            gather.leave_out(source_id, place, f"result.{i}", "must be an object with a value")
            continue
        name, kind, value = str(result.get("from_name") or result.get("type")), result.get("type"), result["value"]
        with gather.reading(source_id, place):
            if kind == "textarea":
                reasons += [str(t) for t in (value["text"] if isinstance(value.get("text"), list) else [value.get("text", "")])]
            elif kind in ("rating", "number"):
                _score(name, result, value.get(kind), item, scores)
            elif kind in ("labels", "hypertextlabels", "paragraphlabels") and isinstance(value.get("start"), int):
                spans += _spans(result, value, item)
            else:
                said.append(_judged(name, str(kind), value, item))
    found = [*said, *scores_said(scores), *([spans_said(spans)] if spans else [])]
    return found, "\n".join(reasons)


def _judged(name: str, kind: str, value: Mapping[str, Any], item: Item) -> Said:
    if kind == "ranker":
        return Said(name, "ranking", _ranker(value.get("ranker"), item))
    if kind not in ("pairwise", "choices"):
        raise FieldError(name, f"results of type {kind!r} judge no answer that is understood")
    chosen = value.get("selected")
    if kind == "choices":
        choices = _list(name, value.get("choices"))
        if len(choices) != 1:
            raise FieldError(name, f"{len(choices)} choices where one is needed")
        chosen = choices[0]
    choice = item.choice(chosen, by_text=kind == "choices")
    if choice is None:
        raise FieldError(name, f"{str(chosen)[:40]!r} is no choice between {len(item.candidates)} answers")
    return Said(name, "pairwise", choice)


def _ranker(value: Any, item: Item) -> Ranks:
    """A list ranks its names. Buckets rank where their names do (``1``, ``rank 2``); ``_`` alone is the list in its new order; other
    buckets are categories."""
    if isinstance(value, list):
        return item.ranks("ranker", [[v] for v in value])
    if not isinstance(value, dict) or not all(isinstance(v, list) for v in value.values()):
        raise FieldError("ranker", "must be a list or buckets of lists")
    filled = {k: v for k, v in value.items() if v}
    if list(filled) == ["_"]:
        return item.ranks("ranker", [[v] for v in filled["_"]])
    order = {k: re.search(r"\d+", k) for k in filled}
    if not filled or not all(order.values()):
        raise FieldError("ranker", f"its buckets ({', '.join(value)}) are categories, no ranks: name them rank_1, rank_2 ...")
    return item.ranks("ranker", [filled[k] for k in sorted(filled, key=lambda k: int(order[k][0]))])  # type: ignore[index]


def _score(name: str, result: Mapping[str, Any], value: Any, item: Item, scores: dict[int, dict[str, float]]) -> None:
    about = item.place_of(str(result.get("to_name", "")))
    about = item.place_of(name) if about is None else about
    number = number_of(value)
    if number is None or about is None:
        raise FieldError(name, f"{value!r} is no number" if number is None else f"{result.get('to_name')!r} is none of the answers")
    scores.setdefault(about, {})[item.dimension(name)] = number


def _spans(result: Mapping[str, Any], value: Mapping[str, Any], item: Item) -> list[Span]:
    about = item.place_of(str(result.get("to_name", "")))
    if about is None:
        raise FieldError(str(result.get("from_name")), f"{result.get('to_name')!r} is none of the answers")
    kinds = _list("labels", value.get("labels") or value.get("hypertextlabels") or value.get("paragraphlabels"))
    if not kinds:
        raise FieldError(str(result.get("from_name")), "a span without a label says nothing")
    text = item.candidates[about].text
    return [span_of("value", about, text, value["start"], value.get("end"), str(k), value.get("text")) for k in kinds]


# --- writing --------------------------------------------------------------------------------------------------------------------


def write(imported: Imported, path: Path) -> tuple[LeftOut, ...]:
    """One entry an item: the questions that share an id, a prompt and answers are one task there. Left out: answers that mark no span
    (an empty result means there that nobody answered) and those of purposes that the format does not know."""
    items: dict[tuple[Any, ...], tuple[Task, list[tuple[Task, Judgement]]]] = {}
    kept, left = files.unfit(imported, ("pairwise", "ranking", "rating", "spans"), "")
    for task, judgement in kept:
        key = (task.source_id, task.prompt.prompt_id, tuple(c.candidate_id for c in task.candidates))
        votes = items.setdefault(key, (task, []))[1]
        if judgement is not None and judgement.answer == Spans(()):
            left.append(LeftOut(judgement.event_id, judgement.source_id, "spans: an empty result means there that nobody answered"))
        elif judgement is not None:
            votes.append((task, judgement))
    judges = {a.annotator_id for a in imported.annotators if a.kind != "person"}
    files.write_json(path, [_entry(task, votes, judges) for task, votes in items.values()])
    return tuple(left)


def _entry(task: Task, votes: Sequence[tuple[Task, Judgement]], judges: set[str]) -> dict[str, Any]:
    data: dict[str, Any] = {**columns_of(task.meta, is_column), **({"prompt": said} if (said := files.said(task.prompt)) else {})}
    pictures = files.images_of(task.prompt)
    if pictures:
        data["images"] = pictures
    names = [f"answer{k + 1}" for k in range(len(task.candidates))]
    if any(c.origin for c in task.candidates):
        data["items"] = [{"id": n, "body": files.spoken(c), **c.origin} for n, c in zip(names, task.candidates)]
    else:
        data |= {n: files.spoken(c) for n, c in zip(names, task.candidates)}
    by_event: dict[tuple[str, str, str], list[tuple[Task, Judgement]]] = {}
    for of, judgement in votes:
        by_event.setdefault((judgement.by, judgement.at, judgement.source_id), []).append((of, judgement))
    entry: dict[str, Any] = {"id": task.source_id, "data": data, "annotations": [], "predictions": []}
    for group in by_event.values():
        made = _annotation_row(group, names, group[0][1].by in judges)
        entry["predictions" if group[0][1].by in judges else "annotations"].append(made)
    return entry


def _annotation_row(group: Sequence[tuple[Task, Judgement]], names: Sequence[str], judge: bool) -> dict[str, Any]:
    first = group[0][1]
    row: dict[str, Any] = {"result": [r for task, j in group for r in _result(task, j, names)]}
    own = first.source_id != "" and not first.source_id.endswith(f"/{files.foreign(first.by)}")
    row |= {"id": first.source_id.removeprefix("prediction ")} if own else {}
    row |= {"created_at": at} if (at := files.at(first)) else {}
    if first.reason:
        row["result"].append({"from_name": "reason", "to_name": names[0], "type": "textarea", "value": {"text": [first.reason]}})
    if judge:
        return row | {"model_version": files.foreign(first.by), **({"score": s} if (s := first.meta.get("score")) is not None else {})}
    lead = {} if first.active_ms is None else {"lead_time": first.active_ms / 1000}
    truth = {"was_cancelled": False, "ground_truth": first.purpose == "adjudication"}
    return row | {"completed_by": files.foreign(first.by), **truth, **lead}


def _result(task: Task, judgement: Judgement, names: Sequence[str]) -> list[dict[str, Any]]:
    scheme, answer = files.scheme_of(task, task.kind), judgement.answer
    head = {"from_name": scheme, "to_name": ",".join(names)}
    if isinstance(answer, Choice):
        if answer.chosen in ("first", "second"):
            return [{**head, "type": "pairwise", "value": {"selected": word_of(answer)}}]
        return [{**head, "type": "choices", "value": {"choices": [word_of(answer)]}}]
    if isinstance(answer, Ranks):
        buckets = {f"rank_{i}": [names[k] for k in bucket] for i, bucket in enumerate(answer.buckets, start=1)}
        return [{**head, "type": "ranker", "value": {"ranker": buckets}}]
    if isinstance(answer, Scores):
        to = names[answer.candidate]
        return [{"from_name": k, "to_name": to, "type": "number", "value": {"number": v}} for k, v in answer.scores.items()]
    return [_span_row(task, s, names) for s in answer.spans] if isinstance(answer, Spans) else []


def _span_row(task: Task, span: Span, names: Sequence[str]) -> dict[str, Any]:
    text = task.candidates[span.candidate].text
    start, end = span_in_utf16(text, span.start, span.end)
    value = {"start": start, "end": end, "text": text[span.start : span.end], "labels": [span.kind]}
    return {"from_name": "spans", "to_name": names[span.candidate], "type": "labels", "value": value}
