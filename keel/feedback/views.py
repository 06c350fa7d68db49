"""What training reads of the store: judgements -> comparisons, unpaired labels, rankings, ratings. Nothing is left out without a name.

Only work counts: gold, training, repeats, audits and adjudications are asked for other reasons (an adjudication is a view of its own).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from keel.types import Choice, Comparison, Judgement, Purpose, Ranking, Ranks, Rating, Scores, Spans, Task, Unpaired

if TYPE_CHECKING:
    from keel.feedback.db import Store


@dataclass(frozen=True, slots=True)
class View:
    """Records of one kind each, the events they are made of, and how many judgements are not in them, by reason."""

    comparisons: tuple[Comparison, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()  # both answers of a pair that may not be learnt from
    rankings: tuple[Ranking, ...] = ()
    ratings: tuple[Rating, ...] = ()
    spans: tuple[tuple[Task, Judgement], ...] = ()
    events: tuple[str, ...] = ()  # event ids, in the order in which they came
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows of an event beside it."""

    counted: bool
    retracted: bool


def of_store(store: Store, campaign: str, purpose: Purpose = "work", *, surplus: bool = False, without: Iterable[str] = ()) -> View:
    """The view of a campaign's judgements. ``surplus``: also votes beyond the wanted number; ``without``: annotators to leave out."""
    judgements = store.judgements(campaign)
    tasks = dict(zip(ids := list(dict.fromkeys(j.task_id for j in judgements)), store.tasks(ids), strict=True))
    return view(judgements, tasks, store.standing(campaign), purpose, surplus=surplus, without=without)


def view(
    judgements: Sequence[Judgement],
    tasks: Mapping[str, Task],
    standing: Mapping[str, Standing],
    purpose: Purpose = "work",
    *,
    surplus: bool = False,
    without: Iterable[str] = (),
) -> View:
    """Judgements of one purpose as records. ``standing`` has those that no correction replaced.

    The reasons in ``left_out``: ``replaced``, ``retracted``, ``surplus`` (beyond the wanted number), ``cannot`` (the annotator could not
    tell), ``without`` (an annotator left out on request), and the name of every other purpose.
    """
    gone, lost, kept = frozenset(without), Counter[str](), list[Judgement]()
    for j in judgements:
        state = standing.get(j.event_id)
        reason = (
            j.purpose
            if j.purpose != purpose
            else "replaced"
            if state is None
            else "retracted"
            if state.retracted
            else "without"
            if j.by in gone
            else "cannot"
            if isinstance(j.answer, Choice) and j.answer.chosen == "cannot"
            else "surplus"
            if purpose == "work" and not state.counted and not surplus
            else ""
        )
        if reason:
            lost[reason] += 1
        else:
            kept.append(j)
    made: dict[type, list[Any]] = {kind: [] for kind in (Comparison, Unpaired, Ranking, Rating, Spans)}
    for j in kept:
        for record in records(j, tasks[j.task_id]):
            made[Spans if isinstance(record, tuple) else type(record)].append(record)
    found = (tuple(made[kind]) for kind in (Comparison, Unpaired, Ranking, Rating, Spans))
    return View(*found, events=tuple(j.event_id for j in kept), left_out=dict(sorted(lost.items())))


def records(j: Judgement, task: Task) -> tuple[Comparison | Unpaired | Ranking | Rating | tuple[Task, Judgement], ...]:
    """The records of one judgement, named by its event. ``both_bad`` makes two unwanted answers and no pair, ``cannot`` nothing."""
    match j.answer:
        case Choice(chosen="cannot"):
            return ()
        case Choice(chosen="both_bad"):
            return tuple(Unpaired(f"{j.event_id}:{i}", task.prompt, c.messages, desirable=False) for i, c in enumerate(task.candidates))
        case Choice(chosen=chosen, strength=strength):
            first, second = task.candidates
            clear = (0.0 if chosen == "tie" else 1.0) if strength is None else strength
            order, outcome = cast("tuple[int, int]", tuple(j.display_order)), cast("Any", chosen)
            name = j.source_id or task.source_id
            return (Comparison(j.event_id, task.prompt, (first, second), outcome, clear, j.by, j.protocol, order, name),)
        case Ranks(buckets=buckets):
            rank = {place: i + 1 for i, bucket in enumerate(buckets) for place in bucket}
            answers = tuple(c.messages for c in task.candidates)
            return (Ranking(j.event_id, task.prompt, answers, tuple(rank[i] for i in range(len(answers)))),)
        case Scores(candidate=place, scores=scores):
            return (Rating(j.event_id, task.prompt, task.candidates[place].messages, dict(scores)),)
        case Spans():
            return ((task, j),)
