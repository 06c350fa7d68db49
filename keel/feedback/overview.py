"""A campaign at a glance, for whoever runs it: how far, how long still, how well people agree, who is who, what is disputed.

Pure functions of records. What needs votes of two candidates (kappa, sides, evidence against a person) is there for pairwise campaigns;
what needs only likeness of answers is there for all kinds.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keel.feedback.answers import disagreement, likeness
from keel.feedback.campaigns import Campaign
from keel.feedback.quality.gold import Rate, rate
from keel.feedback.views import Standing
from keel.types import Choice, Judgement, Task
from keel.types.identity import answer_key

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """``per_hour``: votes an hour of the hours in which anybody worked, in the last day; ``hours`` of such work until all is done,
    NaN without any; ``missing`` votes."""

    missing: int
    per_hour: float
    hours: float


def forecast(times: Iterable[float], missing: int, now: float) -> Forecast:
    """From when votes came (seconds since 1970). Nights do not count: the rate is that of hours with votes."""
    recent = [t for t in times if now - 24 * HOUR < t <= now]
    hours = len({int((now - t) // HOUR) for t in recent})
    per_hour = len(recent) / hours if hours else math.nan
    return Forecast(missing, per_hour, missing / per_hour if hours else math.nan)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Mean likeness of two people's answers to one item, over items, with a bootstrap interval over these."""

    value: float
    low: float
    high: float
    n: int


def mean_likeness(work: Sequence[Judgement], scale: float, draws: int = 500, seed: int = 0) -> Likeness:
    """Of items with two answers or more; each item counts the same. ``cannot`` is an answer too."""
    by_task: dict[str, list[Judgement]] = defaultdict(list)
    for j in work:
        by_task[j.task_id].append(j)
    alike = np.array([1.0 - disagreement([j.answer for j in js], scale) for js in by_task.values() if len(js) > 1])
    if not len(alike):
        return Likeness(math.nan, math.nan, math.nan, 0)
    means = alike[np.random.default_rng(seed).integers(0, len(alike), (draws, len(alike)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Likeness(float(alike.mean()), float(low), float(high), len(alike))


@dataclass(frozen=True, slots=True)
class Worker:
    """One person. ``gold``: known items that were right; ``seconds``: the median time at work on an item; ``left``: share of the decided
    that chose the left side; ``alike``: mean likeness to the others on the same items, in the first and second half of the person's
    votes, and overall; ``same``: swapped repeats answered alike."""

    annotator: str
    votes: int
    gold: Rate
    seconds: float
    left: Rate
    alike: float
    alike_before: float
    alike_after: float
    same: Rate
    last: str


def workers(standing: Sequence[Judgement], tasks: Mapping[str, Task], campaign: Campaign) -> tuple[Worker, ...]:
    """Everybody who judged, by name. ``standing``: judgements that no other replaced, in the order in which they came."""
    by: dict[str, list[Judgement]] = defaultdict(list)
    work: dict[str, list[Judgement]] = defaultdict(list)
    for j in standing:
        by[j.by].append(j)
        if j.purpose == "work":
            work[j.task_id].append(j)
    scale, right_at = campaign.settings.scale, campaign.settings.right_at
    return tuple(_worker(name, by[name], work, tasks, scale, right_at) for name in sorted(by))


def _worker(
    name: str, mine: Sequence[Judgement], work: Mapping[str, Sequence[Judgement]], tasks: Mapping[str, Task], scale: float, right_at: float
) -> Worker:
    known = [(j, e) for j in mine if j.purpose == "gold" and (e := tasks[j.task_id].expected) is not None]
    hits = sum(likeness(j.answer, e, scale) >= right_at for j, e in known)
    own = [j for j in mine if j.purpose == "work"]
    first = {j.task_id: j for j in own}
    again = [(j, first[j.task_id]) for j in mine if j.purpose == "repeat" and j.task_id in first]
    same = sum(likeness(a.answer, b.answer, scale) >= right_at for a, b in again)
    sides = [s for j in own if (s := left(j)) is not None]
    alike = [x for j in own if not math.isnan(x := _to_others(j, work[j.task_id], scale))]
    half = len(alike) // 2
    times = [j.active_ms / 1000.0 for j in mine if j.active_ms]
    return Worker(
        annotator=name,
        votes=len(own),
        gold=rate(hits, len(known)),
        seconds=statistics.median(times) if times else math.nan,
        left=rate(sum(sides), len(sides)),
        alike=_mean(alike),
        alike_before=_mean(alike[:half]) if half > 4 else math.nan,
        alike_after=_mean(alike[half:]) if half > 4 else math.nan,
        same=rate(same, len(again)),
        last=mine[-1].at,
    )


def left(j: Judgement) -> bool | None:
    """Did a choice take what stood on the left? None where no side was chosen."""
    if not isinstance(j.answer, Choice) or j.answer.chosen not in ("first", "second"):
        return None
    return j.display_order[0] == (0 if j.answer.chosen == "first" else 1)


def _to_others(j: Judgement, all_of_it: Sequence[Judgement], scale: float) -> float:
    return _mean([likeness(j.answer, other.answer, scale) for other in all_of_it if other.by != j.by])


@dataclass(frozen=True, slots=True)
class Dispute:
    """An item whose votes disagree: 1 - the mean likeness of any two."""

    task_id: str
    disagreement: float
    votes: int


def disputes(work: Sequence[Judgement], scale: float, most: int = 20) -> tuple[Dispute, ...]:
    """The items whose votes disagree most, worst first."""
    by_task: dict[str, list[Judgement]] = defaultdict(list)
    for j in work:
        by_task[j.task_id].append(j)
    found = [Dispute(t, disagreement([j.answer for j in js], scale), len(js)) for t, js in by_task.items() if len(js) > 1]
    return tuple(sorted((d for d in found if d.disagreement > 0), key=lambda d: (-d.disagreement, -d.votes, d.task_id))[:most])


@dataclass(frozen=True, slots=True)
class Cycle:
    """Answers to one prompt of which each beats the next by its votes, and the last the first. No order fits them."""

    prompt_id: str
    texts: tuple[str, ...]


def cycles(work: Sequence[Judgement], tasks: Mapping[str, Task], most: int = 20) -> tuple[Cycle, ...]:
    """Circles of three in majorities of votes on pairs of answers to one prompt: a tournament has a circle only if it has one of three.
    Answers are told apart by their content."""
    won: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    said: dict[str, str] = {}
    for j in work:
        if isinstance(j.answer, Choice) and j.answer.chosen in ("first", "second"):
            first, second = (answer_key(c.messages) for c in tasks[j.task_id].candidates)
            said |= {answer_key(c.messages): c.text for c in tasks[j.task_id].candidates}
            won[tasks[j.task_id].prompt.prompt_id][(first, second) if j.answer.chosen == "first" else (second, first)] += 1
    found: list[Cycle] = []
    for prompt_id in sorted(won):
        votes = won[prompt_id]
        beats = {(a, b) for a, b in votes if votes[a, b] > votes[b, a]}
        answers = sorted({answer for pair in beats for answer in pair}, key=lambda a: (said[a], a))
        for a, b, c in itertools.combinations(answers, 3):
            if {(a, b), (b, c), (c, a)} <= beats:
                found.append(Cycle(prompt_id, (said[a], said[b], said[c])))
            elif {(a, c), (c, b), (b, a)} <= beats:
                found.append(Cycle(prompt_id, (said[a], said[c], said[b])))
            if len(found) >= most:
                return tuple(found)
    return tuple(found)


def still_standing(judgements: Sequence[Judgement], standing: Mapping[str, Standing]) -> tuple[Judgement, ...]:
    """The judgements that nobody replaced or took back, in their order."""
    return tuple(j for j in judgements if j.event_id in standing and not standing[j.event_id].retracted)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
