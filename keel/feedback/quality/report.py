"""One person's page: every measure, and the one verdict that may be acted on, the alarm of the e-process.

Three families are mixed: labels that ignore the task, a side chosen always, votes faster than reading. Ville's inequality bounds the
chance that a person of the null (`others`, and the limits below) is ever alarmed by ``alpha``, however many votes they give and however
often one looks; as far as the crowd's model is right, which is learnt from the same votes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keel.feedback.quality.behaviour import Change, Drift, Pattern, change, chose_left, drift, pattern, sessions, too_fast
from keel.feedback.quality.eprocess import bernoulli, combined, first_alarm
from keel.feedback.quality.gold import Rate, Repeats, gold_accuracy, rate, repeats
from keel.feedback.quality.others import Crowd, crowd_of, gold_of, honest, ignores_task, others_counts
from keel.feedback.reliability.votes import Floats, Ints, Votes

ALPHA = 0.01
FAMILIES = ("ignores the task", "always left", "always right", "too fast")
WEIGHTS = (0.6, 0.1, 0.1, 0.2)
SIDE_MOST, SIDE = 0.65, (0.8, 0.95)  # an honest person may choose a side so often; the alternatives
FAST_MOST, FASTER = 0.25, (0.5, 0.8, 0.95)  # an honest person may be so often faster than a quarter of the expected time


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence by family, log [P, N] each, and mixed. ``alarm_P`` is the vote (from 0) of the first alarm, -1 without."""

    families: Mapping[str, Floats]
    mixed_PN: Floats
    alarm_P: Ints


def evidence(
    crowd: Crowd,
    label_PN: Ints,
    honest_PNK: Floats,
    left_PN: np.ndarray,
    decided_PN: np.ndarray,
    fast_PN: np.ndarray,
    timed_PN: np.ndarray,
    tie: int | None,
    alpha: float = ALPHA,
) -> Evidence:
    """The e-process of P people with N votes each, in order."""
    found = {
        "ignores the task": ignores_task(crowd, label_PN, honest_PNK, tie),
        "always left": bernoulli(left_PN, decided_PN, SIDE_MOST, SIDE),
        "always right": bernoulli(~left_PN & decided_PN, decided_PN, SIDE_MOST, SIDE),
        "too fast": bernoulli(fast_PN, timed_PN, FAST_MOST, FASTER),
    }
    mixed_PN = combined([found[name] for name in FAMILIES], WEIGHTS)
    return Evidence(found, mixed_PN, first_alarm(mixed_PN, alpha))


@dataclass(frozen=True, slots=True)
class Person:
    """What is known of one annotator. ``alarm`` is the number of votes after which the evidence first passed 1 / alpha, 0 where it never
    did; ``why`` is the family with the most evidence then; ``log_e`` the evidence now."""

    annotator: str
    votes: int
    gold: Rate
    repeats: Repeats
    agreement: Rate  # with the class most voted by others, where there is one
    fast: Rate
    pattern: Pattern
    agreement_drift: Drift
    speed_change: Change
    log_e: float
    alarm: int
    why: str


def people(
    votes: Votes, gold: Mapping[str, str] | None = None, length_T: Floats | Sequence[float] | None = None, alpha: float = ALPHA
) -> tuple[Person, ...]:
    """All annotators, in the order of ``votes.annotators``. ``length_T``: words (or characters) of each task, for the speed. The e-process
    sees first votes alone, in the order of time. Raises ValueError unless 0 < alpha < 1."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is a chance between 0 and 1, not {alpha}")
    ordered, gold = votes.by_time(), gold or {}
    lengths_T = np.zeros(len(votes.tasks)) if length_T is None else np.asarray(length_T, np.float64)
    first = ordered.first_votes()
    fast_V, timed_V = too_fast(first, lengths_T)
    gold_V, counts_VK = gold_of(first, gold), others_counts(first)
    crowd = crowd_of(first, gold_V)
    honest_VK = honest(crowd, counts_VK, gold_V)
    left_V, decided_V = chose_left(first)
    top_V = counts_VK.max(1)
    clear_V = (top_V > 0) & ((counts_VK == top_V[:, None]).sum(1) == 1)
    agree_V = np.where(clear_V, counts_VK.argmax(1) == first.label_V, math.nan)
    slowness_V = np.log(np.where(timed_V, first.seconds_V, math.nan))
    golds, again = gold_accuracy(ordered, gold), repeats(ordered)
    tie = first.classes.index("tie") if "tie" in first.classes else None
    found: list[Person] = []
    for a, name in enumerate(votes.annotators):
        at = np.flatnonzero(first.annotator_V == a)
        row = lambda x, at=at: x[at][None]  # noqa: E731
        if not len(at):
            continue
        e = evidence(crowd, row(first.label_V), row(honest_VK), row(left_V), row(decided_V), row(fast_V), row(timed_V), tie, alpha)
        alarm = int(e.alarm_P[0])
        known = np.isfinite(agree_V[at])
        found.append(
            Person(
                annotator=name,
                votes=len(at),
                gold=golds[a],
                repeats=again[a],
                agreement=rate(int(np.nansum(agree_V[at])), int(known.sum())),
                fast=rate(int(fast_V[at].sum()), int(timed_V[at].sum())),
                pattern=pattern(first.label_V[at], left_V[at], decided_V[at]),
                agreement_drift=drift(agree_V[at]),
                speed_change=change(slowness_V[at], sessions(first.at_V[at])),
                log_e=float(e.mixed_PN[0, -1]),
                alarm=alarm + 1,
                why=max(FAMILIES, key=lambda f: e.families[f][0, alarm]) if alarm >= 0 else "",
            )
        )
    return tuple(found)
