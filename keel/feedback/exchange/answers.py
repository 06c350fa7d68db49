"""Named answers of a form (columns of a table, questions of a record) -> what was judged, and the task that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.data.errors import FieldError
from keel.feedback.exchange.gather import Gather, Vote
from keel.feedback.exchange.items import Item
from keel.feedback.exchange.said import WRITTEN, number_of, plain_word
from keel.types.judgements import Answer, Choice, Ranks, Scores, Span, Spans, Task, TaskKind

REASONS = frozenset(
    plain_word(w)
    for w in ("reason", "comment", "comments", "rationale", "explanation", "feedback", "note", "notes", "justification", "理由")
)
_TRUE, _FALSE = ("true", "on", "yes"), ("false", "off", "no")


@dataclass(frozen=True, slots=True)
class Said:
    """One judgement of an item. ``only``: the single answer that it is about, in the item's order; its task holds that answer alone."""

    scheme: str
    kind: TaskKind
    answer: Answer
    only: int | None = None


def scores_said(found: Mapping[int, Mapping[str, float]], scheme: str = "rating") -> list[Said]:
    """Scores by answer as judgements, one an answer."""
    return [Said(scheme, "rating", Scores(0, dict(scores)), k) for k, scores in found.items()]


def spans_said(spans: Sequence[Span]) -> Said:
    return Said("spans", "spans", Spans(tuple(spans)))


def add(gather: Gather, item: Item, source_id: str, said: Said, vote: Vote, meta: Mapping[str, Any] | None = None) -> Task:
    """Note a judgement; its task is made when it is new. ``vote`` is taken but for task and answer. A rating of one of several answers
    has a task of its own, ``id/name``."""
    meta = item.rest if meta is None else meta
    if said.only is None or len(item.candidates) == 1:
        task = gather.task(source_id, item.prompt, item.candidates, said.kind, said.scheme, meta)
    else:
        name = f"{source_id}/{item.names[said.only][0]}"
        prompt = replace(item.prompt, source_id=name)
        task = gather.task(name, prompt, (item.candidates[said.only],), said.kind, said.scheme, meta)
    order = vote.display_order if len(vote.display_order) == len(task.candidates) else ()
    gather.vote(replace(vote, task_id=task.task_id, answer=said.answer, display_order=order))
    return task


def form(values: Mapping[str, Any], item: Item, gather: Gather, record_id: str, place: str) -> tuple[list[Said], str]:
    """What the fields of a form say, and the reason that was written. A field that says nothing that can be kept is left out by name.

    A number about one answer (``accuracy_2``, or any of a single answer) is a score; a word or number that names one of two answers is a
    choice; ``B,D=A,C`` or a list of names ranks; any other word about a single answer is a category, the score ``field:word`` = 1.
    """
    said: list[Said] = []
    scores: dict[int, dict[str, float]] = {}
    reasons: list[str] = []
    for name, value in flat(values).items():
        if value is None or value == "":
            continue
        if plain_word(name) in REASONS:
            reasons.append(str(value))
            continue
        with gather.reading(record_id, place):
            one = _one(name, value, item, scores)
            said += [one] if one is not None else []
    return [*said, *scores_said(scores)], "\n".join(reasons)


def _one(name: str, value: Any, item: Item, scores: dict[int, dict[str, float]]) -> Said | None:
    number, several = number_of(value), len(item.candidates) > 1
    about = item.place_of(name)
    if number is not None and about is not None:
        scores.setdefault(about, {})[item.dimension(name)] = number
        return None
    choice = item.choice(value)
    if choice is not None and about is None:
        return Said(name, "pairwise", choice)
    if several and (isinstance(value, list) or any(mark in str(value) for mark in ",=>")):
        return Said(name, "ranking", rank_order(name, value, item))
    if not several:
        scores.setdefault(0, {})[f"{name}:{value}"] = 1.0
        return None
    raise FieldError(name, f"{str(value)[:40]!r} says nothing of these {len(item.candidates)} answers that is understood")


def rank_order(name: str, value: Any, item: Item) -> Ranks:
    """Ranks from ``B,D=A,C`` (Potato's way), ``B>A``, or a list of names, best first; names of a list inside it are ties."""
    if not isinstance(value, list):
        value = [bucket.split("=") for bucket in str(value).replace(">", ",").split(",")]
    buckets = [entry if isinstance(entry, list) else [entry] for entry in value]
    return item.ranks(name, [[e.strip() if isinstance(e, str) else e for e in b] for b in buckets])


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a form without its boxes: ``{"choice": {"left": true, "right": false}}`` becomes ``choice = left``, and so does
    ``choice.left = true``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        value = _parsed(value)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
            found |= flat(value[0])  # taskAnswers: a list of one form
        elif isinstance(value, Mapping):
            ticked = [k for k, v in value.items() if v is True or plain_word(v) in _TRUE]
            boxes = all(isinstance(v, bool) or plain_word(v) in (*_TRUE, *_FALSE) for v in value.values())
            if boxes and value:
                found[name] = ticked[0] if len(ticked) == 1 else ",".join(ticked)
            else:
                found |= {k if k not in found else f"{name}.{k}": v for k, v in flat(value).items()}
        elif isinstance(value, str | bool) and "." in name and plain_word(value) in (*_TRUE, *_FALSE):
            if plain_word(value) in _TRUE:
                found[name.rpartition(".")[0]] = name.rpartition(".")[2]
        else:
            found[name.removesuffix(".label")] = value
    return found


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def word_of(choice: Choice) -> str:
    """How a choice is written into forms."""
    return WRITTEN[choice.chosen]


def order_text(ranks: Ranks, names: Sequence[str]) -> str:
    """Ranks as ``B,D=A,C``."""
    return ",".join("=".join(names[k] for k in bucket) for bucket in ranks.buckets)
