"""What training reads of the store: judgements -> comparisons, unpaired labels, rankings, ratings. Nothing is left out without a name.

Only work counts: gold, training, repeats, audits and adjudications are asked for other reasons (an adjudication is a view of its own).
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from keel.core.errors import ConfigError
from keel.types import Choice, Comparison, Judgement, Purpose, Ranking, Ranks, Rating, Scores, Spans, TakenBack, Task, Unpaired

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
    retracted: bool  # by a retraction, or by the annotator, who has not answered again
    place: int = 0  # in the order in which votes count
    advises: bool = False  # a judge's verdict on an item that people decide


def of_store(store: Store, campaign: str, purpose: Purpose = "work", *, surplus: bool = False, without: Iterable[str] = ()) -> View:
    """The view of a campaign's judgements. ``surplus``: also votes beyond the wanted number; ``without``: annotators to leave out, in whose
    place such votes count, as after a retraction. Raises ConfigError for one whom the store does not know."""
    without = tuple(without)
    check_known(store, without)
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

    The reasons in ``left_out``: ``replaced``, ``taken back``, ``retracted``, ``surplus`` (beyond the wanted number), ``cannot`` (the
    annotator could not tell), ``advice`` (a judge's verdict on an item that people decide), ``without`` (an annotator left out on
    request), and the name of every other purpose.
    """
    gone, lost, kept = frozenset(without), Counter[str](), list[Judgement]()
    counted = counting(judgements, standing, gone)
    for j in judgements:
        further = j.purpose == "work" and bool(j.repeat)
        criterion = further and isinstance(j.answer, Scores)  # a judge's rating on another criterion is no repeat, nor one person more
        reason = "repeat" if further and not criterion else j.purpose if j.purpose != purpose else ""
        reason = reason or why_not(j, standing, gone)
        if not reason and isinstance(j.answer, Choice) and j.answer.chosen == "cannot":
            reason = "cannot"
        if not reason and standing[j.event_id].advises:
            reason = "advice"
        if not reason and purpose == "work" and j.event_id not in counted and not surplus and not criterion:
            reason = "surplus"
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


def why_not(j: Judgement, standing: Mapping[str, Standing], gone: Container[str]) -> str:
    """Why an event says nothing any more: replaced, taken back, retracted, or without those who are ``gone``. Else empty."""
    state = standing.get(j.event_id)
    if state is None:
        return "replaced"
    if isinstance(j.answer, TakenBack):
        return "taken back"
    return "retracted" if state.retracted else "without" if j.by in gone else ""


def counting(judgements: Iterable[Judgement], standing: Mapping[str, Standing], gone: Container[str] = ()) -> frozenset[str]:
    """The events of work that count: as many of an item as the store counts, the first of those that stand and are not by ``gone``."""
    counts, live = Counter[str](), defaultdict[str, list[tuple[int, int, str]]](list)
    for j in judgements:
        state = standing.get(j.event_id)
        if j.purpose != "work" or j.repeat or state is None or state.retracted:
            continue
        counts[j.task_id] += state.counted
        if j.by not in gone and not state.advises:
            live[j.task_id].append((0 if state.counted else 1, state.place, j.event_id))
    return frozenset(event for task, votes in live.items() for _, _, event in sorted(votes)[: counts[task]])


def check_known(store: Store, names: Sequence[str]) -> None:
    """Raises ConfigError for an annotator to be left out whom the store does not know: a typo would leave their votes in."""
    known = [a.annotator_id for a in store.annotators()] if names else []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            what = f"annotator {name!r} is not in the store" + (f"; did you mean {near[0]!r}?" if near else "")
            raise ConfigError(what, "`keel feedback status` lists them")


def records(j: Judgement, task: Task) -> tuple[Comparison | Unpaired | Ranking | Rating | tuple[Task, Judgement], ...]:
    """The records of one judgement, named by its event. ``both_bad`` makes two unwanted answers and no pair, ``cannot`` nothing."""
    match j.answer:
        case Choice(chosen="cannot") | TakenBack():
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
