"""Answers to tasks: rows, what is a possible answer, places on the screen and places in the task, and how alike two answers are.

Pure functions of records, no torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from keel.feedback.texts import RowError, get, only, optional, typed
from keel.types import Answer, Choice, Chosen, Ranks, Scores, Span, Spans, TakenBack, TaskKind

FITS: Mapping[TaskKind, type] = {"pairwise": Choice, "ranking": Ranks, "rating": Scores, "spans": Spans}
_CHOSEN = get_args(Chosen)


def answer_row(answer: Answer) -> dict[str, Any]:
    """An answer as a plain row; ``type`` says which kind it is."""
    match answer:
        case Choice():
            return {"type": "choice", "chosen": answer.chosen, "strength": answer.strength}
        case Ranks():
            return {"type": "ranks", "buckets": [list(bucket) for bucket in answer.buckets]}
        case Scores():
            return {"type": "scores", "candidate": answer.candidate, "scores": dict(answer.scores)}
        case Spans():
            names = ("candidate", "start", "end", "kind", "note")
            return {"type": "spans", "spans": [{name: getattr(span, name) for name in names} for span in answer.spans]}
        case TakenBack():
            return {"type": "taken_back"}


def answer_from(row: Any, where: str = "answer") -> Answer:
    """The answer of a row that `answer_row` made. Raises RowError naming the field; `check_answer` holds it against a task."""
    typed(row, dict, where)
    kind, at = get(row, "type", str, f"{where}."), f"{where}."
    if kind == "choice":
        only(row, frozenset({"type", "chosen", "strength"}), at)
        strength = row.get("strength")
        return Choice(get(row, "chosen", str, at), None if strength is None else typed(strength, (int, float), f"{at}strength"))
    if kind == "ranks":
        only(row, frozenset({"type", "buckets"}), at)
        buckets = get(row, "buckets", list, at)
        return Ranks(tuple(_places(bucket, f"{at}buckets.{i}") for i, bucket in enumerate(buckets)))
    if kind == "scores":
        only(row, frozenset({"type", "candidate", "scores"}), at)
        return Scores(get(row, "candidate", int, at), get(row, "scores", dict, at))
    if kind == "spans":
        only(row, frozenset({"type", "spans"}), at)
        return Spans(tuple(_span(span, f"{at}spans.{i}") for i, span in enumerate(get(row, "spans", list, at))))
    if kind == "taken_back":
        only(row, frozenset({"type"}), at)
        return TakenBack()
    raise RowError(f"{at}type", f"must be choice, ranks, scores, spans or taken_back, is {kind!r}")


def check_answer(answer: Answer, kind: TaskKind, texts: Sequence[str], where: str = "answer") -> None:
    """Is it a possible answer to a task of that kind, whose candidates have these ``texts``? Raises RowError naming the field.

    A choice ``cannot`` fits every kind: the annotator cannot tell. So does nothing in the place of an answer that was taken back.
    """
    if isinstance(answer, TakenBack):
        return
    if isinstance(answer, Choice) and answer.chosen == "cannot":
        _strength(answer, where)
        return
    if not isinstance(answer, FITS[kind]):
        raise RowError(where, f"must be {FITS[kind].__name__} for a task of kind {kind}, is {type(answer).__name__}")
    match answer:
        case Choice():
            if answer.chosen not in _CHOSEN:
                raise RowError(f"{where}.chosen", f"must be one of {', '.join(_CHOSEN)}, is {answer.chosen!r}")
            _strength(answer, where)
        case Ranks():
            places = list(itertools.chain.from_iterable(answer.buckets))
            if sorted(places) != list(range(len(texts))) or not all(answer.buckets):
                raise RowError(f"{where}.buckets", f"must hold each of the {len(texts)} places once, no bucket empty: {answer.buckets}")
        case Scores():
            _place(answer.candidate, len(texts), f"{where}.candidate")
            if not answer.scores:
                raise RowError(f"{where}.scores", "must hold a score")
            for name, score in answer.scores.items():
                if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                    raise RowError(f"{where}.scores.{name}", f"must be a finite number, is {score!r}")
        case Spans():
            for i, span in enumerate(answer.spans):
                _place(span.candidate, len(texts), f"{where}.spans.{i}.candidate")
                if not 0 <= span.start < span.end <= len(texts[span.candidate]):
                    size = len(texts[span.candidate])
                    raise RowError(f"{where}.spans.{i}", f"must lie within the {size} characters of its text: {span.start}..{span.end}")
                if not span.kind:
                    raise RowError(f"{where}.spans.{i}.kind", "is empty")


def from_display(answer: Answer, order: Sequence[int]) -> Answer:
    """An answer that names places on the screen -> one that names places in the task. ``order[i]`` is who was shown at place i.

    It is its own way back with the inverse permutation.
    """
    match answer:
        case Choice():
            if answer.chosen not in ("first", "second") or tuple(order) == (0, 1):
                return answer
            return Choice("second" if answer.chosen == "first" else "first", answer.strength)
        case Ranks():
            return Ranks(tuple(tuple(order[i] for i in bucket) for bucket in answer.buckets))
        case Scores():
            return Scores(order[answer.candidate], answer.scores)
        case Spans():
            return Spans(tuple(Span(order[s.candidate], s.start, s.end, s.kind, s.note) for s in answer.spans))
        case TakenBack():
            return answer


def likeness(a: Answer, b: Answer, scale: float = 1.0) -> float:
    """How alike two answers to one task are, in [0, 1]; 1 = they say the same.

    Choices: equal or not. Ranks: the share of pairs of candidates in the same order (ties are an order of their own). Scores of one
    candidate: 1 - the largest difference over ``scale`` (the width of the protocol's scale), at least 0. Spans: F1 of the marked
    characters with their kinds. Answers of two sorts (``cannot`` against a ranking) are not alike: 0.
    """
    match a, b:
        case Choice(), Choice():
            return float(a.chosen == b.chosen)
        case Ranks(), Ranks():
            one, two = _rank_of(a), _rank_of(b)
            pairs = list(itertools.combinations(sorted(one), 2))
            same = sum(_sign(one[i] - one[j]) == _sign(two[i] - two[j]) for i, j in pairs)
            return same / len(pairs) if pairs else 1.0
        case Scores(), Scores():
            if a.candidate != b.candidate or a.scores.keys() != b.scores.keys():
                return 0.0
            return max(0.0, 1.0 - max(abs(a.scores[k] - b.scores[k]) for k in a.scores) / scale)
        case Spans(), Spans():
            one, two = _marked(a), _marked(b)
            return 2.0 * len(one & two) / (len(one) + len(two)) if one or two else 1.0
    return 0.0


def disagreement(answers: Sequence[Answer], scale: float = 1.0) -> float:
    """1 - the mean likeness over all two answers, in [0, 1]; 0 for fewer than two."""
    pairs = list(itertools.combinations(answers, 2))
    return 1.0 - sum(likeness(a, b, scale) for a, b in pairs) / len(pairs) if pairs else 0.0


def _rank_of(ranks: Ranks) -> dict[int, int]:
    return {place: i for i, bucket in enumerate(ranks.buckets) for place in bucket}


def _marked(spans: Spans) -> set[tuple[int, int, str]]:
    return {(s.candidate, i, s.kind) for s in spans.spans for i in range(s.start, s.end)}


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _strength(answer: Choice, where: str) -> None:
    if answer.strength is not None and not 0.0 <= answer.strength <= 1.0:
        raise RowError(f"{where}.strength", f"must be between 0 and 1, is {answer.strength}")


def _place(place: int, count: int, field: str) -> None:
    if not 0 <= place < count:
        raise RowError(field, f"must be a place in 0..{count - 1}, is {place}")


def _places(bucket: Any, field: str) -> tuple[int, ...]:
    return tuple(typed(place, int, field) for place in typed(bucket, list, field))


def _span(row: Any, where: str) -> Span:
    typed(row, dict, where)
    at = f"{where}."
    only(row, frozenset({"candidate", "start", "end", "kind", "note"}), at)
    start, end = get(row, "start", int, at), get(row, "end", int, at)
    return Span(get(row, "candidate", int, at), start, end, get(row, "kind", str, at), optional(row, "note", str, "", at))
