"""What judges say as judgements: one for each call, one for the verdict that training reads. Tokens and cost are kept beside them.

The verdict of both orders is the judge's work; the calls that it is the mean of have the purpose ``audit``, so that views and agreement
between annotators count a judge once. A failed call is no judgement: `failures` counts it by kind.

An event's id is a hash of what was asked (task, judge, criterion, reference, order, sample) and of what was said: the same call with the
same answer is the same event, anything else another one. Its number (``repeat``) follows from what was asked alone, so that two calls
share a place in a store only if one of them is the other one made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keel.core.hashing import stable_hash
from keel.judges.ask import Judge, Question, Said, digest
from keel.judges.orders import Verdict
from keel.types import Annotator, Answer, Choice, Judgement, Purpose, Ranks, Scores, Task

_CALLS = 2048  # numbers of calls about the same: 1024 samples in both orders


def annotator_of(judge: Judge) -> Annotator:
    """The judge as an annotator; another identity is another annotator."""
    return Annotator(f"{judge.name}@{judge.identity[:8]}", "judge", judge.identity, {"family": judge.family} if judge.family else {})


def question_of(task: Task, criterion: str = "", reference: str = "") -> Question:
    """The question that a task asks. Raises DataError for spans, which no judge is asked about."""
    kinds = {"pairwise": "pairwise", "ranking": "ranking", "rating": "rubric" if criterion else "pointwise"}
    return Question(task.prompt, task.candidates, kinds[task.kind], criterion, reference)  # type: ignore[arg-type]


def judgements(task: Task, judge: Judge, verdict: Verdict, at: str) -> list[Judgement]:
    """All calls that gave a verdict, then the mean of the orders, if there is one."""
    by = annotator_of(judge).annotator_id
    found: list[Judgement] = []
    for question, said in verdict.calls:
        if not said.error:
            meta: dict[str, Any] = {"order": list(question.order), "sample": question.sample}
            meta |= {"criterion": question.criterion} if question.criterion else {}
            place = [_about(question), list(question.order), question.sample]
            found.append(_judgement(task, by, said, question.order, "audit", place, _number(question), at, meta | _meta(said, judge)))
    if not verdict.mean.error:
        calls = [j.event_id for j in found]
        meta = {"mean_of": calls} | _meta(verdict.mean, judge) | {"tokens": _sum([s.tokens for _, s in verdict.calls])}
        about = sorted({tuple(_about(q)) for q, _ in verdict.calls})
        number = _group(about) if any(criterion for criterion, _ in about) else 0  # with another reference it is the same vote, made again
        found.append(_judgement(task, by, verdict.mean, verdict.question.order, "work", [about, calls], number, at, meta))
    return found


def failures(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Failed calls by kind: what stands before the colon of their errors."""
    return dict(sorted(Counter(said.error.partition(":")[0] for v in verdicts for _, said in v.calls if said.error).items()))


def first_failures(calls: Iterable[Said]) -> dict[str, str]:
    """The first error of each kind, whole: what somebody who mends it must read."""
    found: dict[str, str] = {}
    for said in calls:
        if said.error:
            found.setdefault(said.error.partition(":")[0], said.error)
    return dict(sorted(found.items()))


def answer_of(said: Said) -> Answer:
    """The answer that a verdict is. A pair's strength is how far the likelier side is ahead."""
    if said.probabilities is not None:
        return Choice(said.chosen, 0.0 if said.chosen == "tie" else min(1.0, abs(said.lead)))  # type: ignore[arg-type]
    if said.ranks is not None:
        return Ranks(said.ranks)
    return Scores(0, dict(said.scores or {}))


def _about(question: Question) -> list[str]:
    return [question.criterion, question.reference]


def _group(what: Any) -> int:
    """A number for all calls about the same, from 1 on; 0 stands for calls without criterion and reference."""
    return 1 + stable_hash("judge calls", repr(what)) % (2**31 // _CALLS - 1)


def _number(question: Question) -> int:
    """The number of a call among those of its task: small ones in the plain case, of 31 bits always."""
    way = question.order == tuple(range(len(question.order)))[::-1] and len(question.order) > 1
    plain = way or question.order == tuple(range(len(question.order)))
    about = _about(question) if plain else [*_about(question), *map(str, question.order)]
    group = 0 if about == ["", ""] and 2 * question.sample + 1 < _CALLS else _group([about, 2 * question.sample // _CALLS])
    return group * _CALLS + (2 * question.sample + way) % _CALLS


def _judgement(
    task: Task, by: str, said: Said, order: Sequence[int], purpose: Purpose, place: Any, repeat: int, at: str, meta: Mapping[str, Any]
) -> Judgement:
    what = [said.probabilities and dict(said.probabilities), said.scores and dict(said.scores), said.ranks, said.text]
    event = digest([task.task_id, by, purpose, place, what])
    answer, reason = answer_of(said), said.text[:2000]
    return Judgement(event, task.task_id, by, purpose, answer, tuple(order), task.protocol, at, repeat, reason=reason, meta=meta)


def _meta(said: Said, judge: Judge) -> dict[str, Any]:
    found: dict[str, Any] = {"tokens": list(said.tokens) if said.tokens else None, "cost": said.cost, "identity": judge.identity}
    if said.probabilities is not None:
        found["probabilities"] = dict(said.probabilities)
    return found


def _sum(tokens: Sequence[tuple[int, int] | None]) -> list[int] | None:
    known = [t for t in tokens if t is not None]
    return [sum(t[0] for t in known), sum(t[1] for t in known)] if len(known) == len(tokens) else None
