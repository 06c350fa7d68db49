"""Judgements -> rows that training reads: the data layouts ``comparison``, ``preference``, ``ranking``, ``rating``, ``unpaired``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from keel.core.errors import DataError
from keel.data.conversion import answer_key, comparisons_to_pairs
from keel.data.left_out import LeftOut
from keel.feedback import store, views
from keel.feedback.exchange import files
from keel.feedback.exchange.imported import Imported
from keel.types.judgements import Choice, Judgement, Ranks, Scores, TakenBack, Task
from keel.types.records import Candidate, Comparison, Prompt

LayoutName = Literal["comparison", "preference", "ranking", "rating", "unpaired"]
_KIND = {"comparison": "pairwise", "preference": "pairwise", "ranking": "ranking", "rating": "rating", "unpaired": "pairwise"}
Found = tuple[list[dict[str, Any]], list[LeftOut]]


def export(imported: Imported, layout: LayoutName, path: Path, protocol: str = "") -> tuple[int, tuple[LeftOut, ...]]:
    """Write the judgements as rows of a layout; returns how many rows, and what is not in them. Raises DataError where nothing is."""
    rows, left = training_rows(imported, layout, protocol)
    if not rows:
        first = f" (first: {left[0].reason})" if left else ""
        raise DataError(f"nothing can be written as layout {layout}: {len(left)} judgements are left out{first}", "choose another layout")
    files.write_lines(path, rows)
    return len(rows), left


def training_rows(imported: Imported, layout: LayoutName, protocol: str = "") -> tuple[list[dict[str, Any]], tuple[LeftOut, ...]]:
    """Rows of one layout, and by name the judgements that are not in them: of other kinds, protocols and purposes (gold, repeats, audits
    are not work), second answers of one person, answers that the layout has no place for. Raises DataError when several protocols could be
    meant: their labels mean different things."""
    tasks = {t.task_id: t for t in imported.tasks}
    kind = _KIND[layout]
    mine = sorted({t.protocol for t in imported.tasks if t.kind == kind})
    if not protocol and len(mine) > 1:
        raise DataError(f"{layout}: judgements of several protocols: {', '.join(mine)}", "name the one to write (protocol=...)")
    votes: list[tuple[Task, Judgement]] = []
    left: list[LeftOut] = []
    for judgement in imported.judgements:
        task = tasks[judgement.task_id]
        why = _unfit(task, judgement, kind, protocol)
        if why:
            left.append(LeftOut(judgement.event_id, judgement.source_id, why))
        else:
            votes.append((task, judgement))
    rows, more = _ROWS[layout](votes)
    return rows, (*left, *more)


def _unfit(task: Task, judgement: Judgement, kind: str, protocol: str) -> str:
    if task.kind != kind:
        return f"kind: a {task.kind} task has no row in this layout"
    if protocol and task.protocol != protocol:
        return f"protocol: is {task.protocol}, not {protocol}"
    if judgement.purpose != "work":
        return f"purpose: {judgement.purpose} is not work"
    if isinstance(judgement.answer, TakenBack):
        return "answer: was taken back"
    if judgement.repeat:
        return f"repeat: the same person's answer number {judgement.repeat + 1}"
    if not task.prompt.messages and not (task.prompt.text or "").strip():
        return "prompt: is empty: nothing can be trained on it"
    return ""


def comparisons(votes: Iterable[tuple[Task, Judgement]]) -> tuple[list[Comparison], list[LeftOut]]:
    """Votes on two answers as training reads them."""
    found: list[Comparison] = []
    left: list[LeftOut] = []
    for task, vote in votes:
        chosen = vote.answer.chosen if isinstance(vote.answer, Choice) else "cannot"
        first, second = task.candidates
        if chosen not in ("first", "second", "tie") or first.messages == second.messages:
            why = "both answers are the same" if first.messages == second.messages else f"{chosen} prefers neither answer and is no tie"
            left.append(LeftOut(vote.event_id, vote.source_id, f"answer: {why}"))
            continue
        found += [record for record in views.records(vote, task) if isinstance(record, Comparison)]  # as every view has it
    return found, left


def _comparison(votes: list[tuple[Task, Judgement]]) -> Found:
    found, left = comparisons(votes)
    return [store.to_row(c) for c in found], left


def _preference(votes: list[tuple[Task, Judgement]]) -> Found:
    found, left = comparisons(votes)
    return [store.pair_row(p) for p in comparisons_to_pairs(found, ties="keep")], left


def _ranking(votes: list[tuple[Task, Judgement]]) -> Found:
    rows: list[dict[str, Any]] = []
    left: list[LeftOut] = []
    for task, vote in votes:
        if not isinstance(vote.answer, Ranks):
            left.append(LeftOut(vote.event_id, vote.source_id, "answer: ranks nothing"))
            continue
        rank = {k: i for i, bucket in enumerate(vote.answer.buckets, start=1) for k in bucket}
        row = {"record_id": vote.event_id, **store.prompt_row(task.prompt), "answers": [_answer(c) for c in task.candidates]}
        rows.append({**row, "ranks": [rank[k] for k in range(len(task.candidates))]})
    return rows, left


def _rating(votes: list[tuple[Task, Judgement]]) -> Found:
    rows: list[dict[str, Any]] = []
    left: list[LeftOut] = []
    for task, vote in votes:
        if not isinstance(vote.answer, Scores):
            left.append(LeftOut(vote.event_id, vote.source_id, "answer: scores nothing"))
            continue
        candidate = task.candidates[vote.answer.candidate]
        row = {"record_id": vote.event_id, **store.prompt_row(task.prompt), "answer": _answer(candidate)}
        rows.append({**row, "scores": dict(vote.answer.scores)})
    return rows, left


def _unpaired(votes: list[tuple[Task, Judgement]]) -> Found:
    """Each answer once: wanted when it won more votes than it lost; ``both_bad`` counts against both. Weight: the size of the mean vote."""
    signs: dict[tuple[str, str], list[float]] = defaultdict(list)
    of: dict[tuple[str, str], tuple[Prompt, Candidate, list[Judgement]]] = {}
    left: list[LeftOut] = []
    by_choice = {"first": (1.0, -1.0), "second": (-1.0, 1.0), "both_bad": (-1.0, -1.0)}
    for task, vote in votes:
        sides = by_choice.get(vote.answer.chosen) if isinstance(vote.answer, Choice) else None
        if sides is None:
            left.append(LeftOut(vote.event_id, vote.source_id, "answer: says of neither answer whether it is wanted"))
            continue
        for candidate, sign in zip(task.candidates, sides):
            key = (task.prompt.prompt_id, answer_key(candidate.messages))
            signs[key].append(sign)
            of.setdefault(key, (task.prompt, candidate, []))[2].append(vote)
    rows: list[dict[str, Any]] = []
    for key, found in signs.items():
        prompt, candidate, by = of[key]
        mean = sum(found) / len(found)
        if mean == 0:
            left += [LeftOut(v.event_id, v.source_id, "answer: the votes on this answer are even") for v in by]
            continue
        row = {"record_id": ":".join(key), **store.prompt_row(prompt), "completion": _answer(candidate)}
        rows.append({**row, "label": mean > 0, "weight": abs(mean)})
    return rows, left


def demonstrations(
    imported: Imported, dimension: str = "accept", at_least: float = 0.5, votes: int = 1
) -> tuple[list[dict[str, Any]], tuple[LeftOut, ...]]:
    """Answers that people accepted, as rows of layout ``prompt_completion``: those of rating tasks whose mean score of ``dimension`` is
    ``at_least`` that, from at least so many ``votes`` of different people. Judges and simulated annotators verify nothing. Left out, by
    name: refused answers, those with too few votes, votes that are no work or not by people."""
    people = {a.annotator_id for a in imported.annotators if a.kind == "person"}
    rows: list[dict[str, Any]] = []
    left: list[LeftOut] = []
    judged = imported.by_task()
    for task in imported.tasks:
        scores: list[float] = []
        for vote in judged[task.task_id]:
            score = vote.answer.scores.get(dimension) if isinstance(vote.answer, Scores) else None
            why = _unfit(task, vote, "rating", "") or ("" if vote.by in people else "by: is no person")
            if why or score is None:
                left.append(LeftOut(vote.event_id, vote.source_id, why or f"scores: has no {dimension}"))
            else:
                scores.append(score)
        mean = sum(scores) / len(scores) if scores else 0.0
        if len(scores) < votes or mean < at_least:
            why = f"{len(scores)} of {votes} votes" if len(scores) < votes else f"mean {dimension} {mean:g} is below {at_least:g}"
            left.append(LeftOut(task.task_id, task.source_id, f"not accepted: {why}"))
            continue
        row = {"record_id": task.task_id, **store.prompt_row(task.prompt), "completion": _answer(task.candidates[0])}
        rows.append(row)
    return rows, tuple(left)


def _answer(candidate: Candidate) -> list[dict[str, Any]]:
    return [files.turn(m) for m in candidate.messages]


_ROWS: Mapping[str, Callable[[list[tuple[Task, Judgement]]], Found]] = {
    "comparison": _comparison,
    "preference": _preference,
    "ranking": _ranking,
    "rating": _rating,
    "unpaired": _unpaired,
}
