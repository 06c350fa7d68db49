"""Planted faults and honest people of varied skill against the alarm of `keel.feedback.quality`: what is found, how soon, and who is
accused wrongly. Readers of Thurstone's kind (1927) who differ in noise, love of ties, side bias and speed; numpy alone.

Set so that two of them agree as people do on public preferences: raw agreement about 0.53 of three classes, a third or more ties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keel.feedback.quality.gold import rate
from keel.feedback.quality.others import Crowd, crowd_of, gold_says, honest
from keel.feedback.quality.report import ALPHA, FAMILIES, evidence
from keel.feedback.reliability.votes import Floats, Ints, from_arrays

FAULTS: Mapping[str, str] = {
    "always left": "from the first vote, 95 of 100 on the left",
    "random": "from the first vote, without regard to the task, at ordinary speed",
    "fast": "from the first vote, without regard to the task, 9 of 10 votes in a tenth of the time",
    "sold": "honest for 30 to 90 votes, then another person who answers at random, at ordinary speed",
    "sold, fast": "the same, the other person is in a hurry as above",
    "drifting": "honest for 30 to 90 votes, then over 30 votes ever more of them at random",
}
FIRST, SECOND, TIE = 0, 1, 2
TIE_BAND, SIDE_BIAS, GOLD_SHARE, WITHIN = 0.62, 0.1, 0.1, 60


@dataclass(frozen=True, slots=True)
class Plan:
    """``others``: votes of others on each task; ``spread``: standard deviation of the log of people's noise and tie band; ``clarity``: that
    of the true differences, in units of the typical noise."""

    honest: int = 4000
    faulty: int = 1000
    votes: int = 300
    others: tuple[int, ...] = (2, 4, 8)
    spreads: tuple[float, ...] = (0.3, 0.4, 0.6)
    clarity: float = 1.2
    seed: int = 0
    alpha: float = ALPHA


@dataclass(frozen=True, slots=True)
class Seen:
    """P people with N votes: what the alarm reads."""

    label_PN: Ints
    others_PNK: Floats
    gold_PN: Ints
    left_PN: np.ndarray
    fast_PN: np.ndarray
    onset_P: Ints


def study(plan: Plan) -> dict[str, Any]:
    """Detection by fault and false alarms by spread of skill, for each number of others' votes."""
    rows: list[dict[str, Any]] = []
    for others in plan.others:
        for spread in plan.spreads:
            crowd, agree, ties = typical_crowd(plan, others, spread)
            alarms = [first_alarms(crowd, people(plan, plan.honest, others, spread, ""), plan.alpha)]
            row = {"others": others, "spread": spread, "agreement": agree, "ties": ties, "honest": plan.honest}
            rows.append({**row, "false": _share(alarms[0][0] >= 0)})
        spread = plan.spreads[min(1, len(plan.spreads) - 1)]
        crowd, agree, ties = typical_crowd(plan, others, spread)
        for fault in FAULTS:
            seen = people(plan, plan.faulty, others, spread, fault)
            alarm_P, why_P = first_alarms(crowd, seen, plan.alpha)
            after_P = np.where(alarm_P >= seen.onset_P, alarm_P - seen.onset_P + 1, -1)
            found = {str(n): _share((after_P > 0) & (after_P <= n)) for n in (WITHIN, 100)}
            middle = float(np.median(after_P[after_P > 0])) if (after_P > 0).any() else math.nan
            why = {name: int((why_P[after_P > 0] == i).sum()) for i, name in enumerate(FAMILIES)}
            rows.append(
                {"others": others, "spread": spread, "fault": fault, "people": plan.faulty, "found": found, "median": middle, "why": why}
            )
    return {"study": "annotators", "alpha": plan.alpha, "votes": plan.votes, "rows": rows}


def _share(hit_P: np.ndarray) -> dict[str, float]:
    r = rate(int(hit_P.sum()), len(hit_P))
    return {"hits": r.hits, "n": r.n, "rate": r.rate, "low": r.low, "high": r.high}


def first_alarms(crowd: Crowd, seen: Seen, alpha: float, chunk: int = 100) -> tuple[Ints, Ints]:
    """The vote of the first alarm [P], -1 without, and which family had the most evidence then."""
    alarms: list[Ints] = []
    whys: list[Ints] = []
    for i in range(0, len(seen.label_PN), chunk):
        at = slice(i, i + chunk)
        label_PN = seen.label_PN[at]
        said_PNK = honest(crowd, seen.others_PNK[at], seen.gold_PN[at])
        always = np.ones(label_PN.shape, np.bool_)
        e = evidence(crowd, label_PN, said_PNK, seen.left_PN[at], label_PN != TIE, seen.fast_PN[at], always, TIE, alpha)
        logs = np.stack([e.families[f] for f in FAMILIES])[:, np.arange(len(label_PN)), e.alarm_P]
        alarms.append(e.alarm_P)
        whys.append(logs.argmax(0).astype(np.int64))
    return np.concatenate(alarms), np.concatenate(whys)


def says(rng: np.random.Generator, difference: Floats, noise: Any, band: Any) -> Ints:
    """Labels of readers: the perceived difference is the true one and noise; within the band it is a tie."""
    perceived = difference + noise * rng.normal(size=difference.shape)
    return np.where(np.abs(perceived) < band, TIE, np.where(perceived > 0, FIRST, SECOND))


def _readers(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> tuple[Floats, Floats]:
    return np.exp(spread * rng.normal(size=shape)), TIE_BAND * np.exp(spread * rng.normal(size=shape))


def typical_crowd(plan: Plan, others: int, spread: float, tasks: int = 1500, size: int = 40) -> tuple[Crowd, float, float]:
    """The pooled crowd as it would be learnt from its votes, with the raw agreement of two and the share of ties."""
    rng = np.random.default_rng((plan.seed, others, 1))
    noise_A, band_A = _readers(rng, (size,), spread)
    who = np.argsort(rng.random((tasks, size)), 1)[:, : others + 1]
    difference_T1 = rng.normal(0, plan.clarity, tasks)[:, None]
    label = says(rng, difference_T1 * np.ones(who.shape), noise_A[who], band_A[who])
    task_V = np.repeat(np.arange(tasks), others + 1)
    votes = from_arrays(task_V, who.ravel(), label.ravel(), ("first", "second", "tie"), annotators=size)
    gold_T1 = gold_difference(rng, plan, (tasks // 10, 1))  # as many gold votes as a tenth of the work
    label_G = says(rng, gold_T1 * np.ones((len(gold_T1), others + 1)), *(x[who[: len(gold_T1)]] for x in (noise_A, band_A)))
    gold_G = np.repeat(np.where(gold_T1[:, 0] > 0, FIRST, SECOND), others + 1)
    pairs = [(label[:, i] == label[:, j]).mean() for i in range(others + 1) for j in range(i)]
    crowd = crowd_of(votes)
    crowd = replace(crowd, gold_KK=gold_says(label_G.ravel(), gold_G, crowd.says_KK))
    return crowd, float(np.mean(pairs)), float((label == TIE).mean())


def gold_difference(rng: np.random.Generator, plan: Plan, shape: tuple[int, ...]) -> Floats:
    """True differences of gold tasks: chosen to be clear."""
    return np.where(rng.random(shape) < 0.5, 1, -1) * plan.clarity * (1.2 + np.abs(rng.normal(0, 0.3, shape)))


def people(plan: Plan, count: int, others: int, spread: float, fault: str) -> Seen:
    """``count`` people with one fault, or none for ``fault=""``."""
    rng = np.random.default_rng((plan.seed, others, 2 + list(FAULTS).index(fault) if fault else 0, int(100 * spread)))
    shape = (count, plan.votes)
    side, difference = rng.integers(0, 2, shape), rng.normal(0, plan.clarity, shape)
    is_gold = rng.random(shape) < GOLD_SHARE
    difference = np.where(is_gold, gold_difference(rng, plan, shape), difference)
    noise, band = _readers(rng, (count, 1), spread)
    bias = SIDE_BIAS * rng.normal(size=(count, 1)) * np.where(side == 0, 1, -1)
    label = says(rng, difference + bias, noise, band)
    seconds = 0.35 * rng.normal(size=(count, 1)) + 0.45 * rng.normal(size=shape)  # log of time over what others need
    noise_o, band_o = _readers(rng, (*shape, others), spread)
    said = says(rng, difference[..., None] * np.ones(noise_o.shape), noise_o, band_o)
    counts = np.stack([(said == k).sum(-1) for k in range(3)], -1).astype(np.float64)
    onset = rng.integers(30, 91, count) if fault.startswith(("sold", "drift")) else np.zeros(count, np.int64)
    since = np.arange(plan.votes) - onset[:, None]
    label, seconds = _spoilt(rng, fault, since, label, seconds, side)
    left = ((label == FIRST) & (side == 0)) | ((label == SECOND) & (side == 1))
    gold = np.where(is_gold, np.where(difference > 0, FIRST, SECOND), -1)
    return Seen(label, counts, gold, left, seconds < math.log(0.25), onset)


def _spoilt(rng: np.random.Generator, fault: str, since: Ints, label: Ints, seconds: Floats, side: Ints) -> tuple[Ints, Floats]:
    shape = label.shape
    ties = 0.4 * rng.random((shape[0], 1))
    anything = np.where(rng.random(shape) < ties, TIE, rng.integers(0, 2, shape))
    hurried = np.where((since >= 0) & (rng.random(shape) < 0.9), math.log(0.1), seconds)
    if fault == "always left":
        return np.where((since >= 0) & (rng.random(shape) < 0.95), side, label), seconds
    if fault == "drifting":
        return np.where(rng.random(shape) < np.clip(since / 30.0, 0, 1), anything, label), seconds
    if fault:
        return np.where(since >= 0, anything, label), hurried if "fast" in fault else seconds
    return label, seconds


def table(found: Mapping[str, Any]) -> str:
    """Both tables as Markdown."""
    show = lambda s: f"{100 * s['rate']:.1f}% [{100 * s['low']:.1f}, {100 * s['high']:.1f}]"  # noqa: E731
    honest_rows = [r for r in found["rows"] if "false" in r]
    lines = [
        f"| others' votes a task | spread of skill | agreement of two | ties | honest alarmed in {found['votes']} votes |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {r['others']} | {r['spread']} | {r['agreement']:.2f} | {r['ties']:.2f} | {show(r['false'])} |" for r in honest_rows]
    lines += [
        "",
        "| others' votes a task | fault | found within 60 votes | within 100 | median votes to the alarm |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['others']} | {r['fault']} | {show(r['found']['60'])} | {show(r['found']['100'])} | {r['median']:.0f} |"
        for r in found["rows"]
        if "fault" in r
    ]
    return "\n".join(lines)
