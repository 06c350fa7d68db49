"""How good a judge is, beside people: agreement, order, length, favour, failures, calibration, price. Pure functions of verdicts and votes.

Every rate has its interval over prompts and the number of cases behind it. A case that has no verdict is in no rate but that of failures.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keel.core.hashing import stable_hash, uniform
from keel.evaluate import statistics
from keel.evaluate.measures import fit_temperature, pair_calibration
from keel.evaluate.statistics import Array, Interval
from keel.judges.ask import SIDES, Question, Said, side_of
from keel.judges.orders import Verdict

DRAWS = 2000
TIE_RULE = "a tie is what is likeliest, or what leaves neither side ahead; both orders are asked and their mean is the verdict"
_CLIP = 1e-3  # of probabilities, before their log-odds: a judge that says 1 is not asked how sure it is
_REFITS = 200  # resamples of which a temperature is fitted


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair with the judge's calls and people's votes on it: ``first``, ``second`` or ``tie``, one a person."""

    verdict: Verdict
    votes: tuple[str, ...] = ()

    @property
    def question(self) -> Question:
        return self.verdict.question

    @property
    def said(self) -> str:
        """The judge's side, "" without a verdict."""
        return self.verdict.mean.chosen

    @property
    def people(self) -> str:
        """The side of all votes together."""
        return majority(self.votes)

    def call(self, order: tuple[int, ...], sample: int = 0) -> Said | None:
        """The call of that order and sample, if it gave a verdict."""
        return next((s for q, s in self.verdict.calls if q.order == order and q.sample == sample and not s.error), None)


def majority(votes: Sequence[str]) -> str:
    """The side of most votes, by the rule of ties; "" of none."""
    if not votes:
        return ""
    count = Counter(votes)
    return side_of({side: count[side] / len(votes) for side in SIDES})


Rate = dict[str, Any]
Case = tuple[str, float, float]  # cluster, hits, cases


@dataclass(frozen=True, slots=True)
class Measuring:
    """How intervals are made."""

    draws: int = DRAWS
    level: float = statistics.LEVEL
    seed: int = 0

    def rate(self, cases: Sequence[Case]) -> Rate | None:
        """Hits of cases, interval over clusters; None without a case. Clusters that are all alike have Wilson's interval: the bootstrap
        would be certain of three."""
        clusters = _clusters([(c, (hits, n)) for c, hits, n in cases])
        kept = [row for row in clusters.values() if row[1] > 0]
        if not kept:
            return None
        shares = {row[0] / row[1] for row in kept}
        if len(shares) == 1:
            found = statistics.wilson(shares.pop() * len(kept), len(kept), level=self.level)
        else:
            how = {"draws": self.draws, "level": self.level, "seed": self.seed}
            found = statistics.cluster_bootstrap([r[0] for r in kept], [r[1] for r in kept], **how)
        return told(found, sum(n for _, _, n in cases))

    def of_totals(self, rows: Sequence[tuple[str, Sequence[float]]], of: Callable[[Array], Array], cases: float) -> Rate | None:
        """A function of totals over clusters."""
        table = list(_clusters(rows).values())
        found = statistics.cluster_totals(table, of, draws=self.draws, level=self.level, seed=self.seed)
        return None if found is None else told(found, cases)


def told(interval: Interval, cases: float) -> Rate:
    """An interval with the cases behind it; ``n`` are clusters."""
    return interval.to_json() | {"cases": int(cases)}


def _clusters(rows: Sequence[tuple[str, Sequence[float]]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, row in rows:
        have = found.setdefault(name, [0.0] * len(row))
        for k, value in enumerate(row):
            have[k] += value
    return dict(sorted(found.items()))


def measure(judged: Sequence[JudgedPair], family: str, how: Measuring) -> dict[str, Any]:
    """All rates; one that nothing can be said of is None."""
    return {
        **agreement(judged, how),
        **beside_people(judged, how),
        **order(judged, how),
        "repeat_flip": how.rate(_repeats(judged)),
        "length_slope": length_slope(judged, how),
        **favour(judged, family, how),
        "failures": how.rate([(_prompt(j), float(bool(s.error)), 1.0) for j in judged for _, s in j.verdict.calls]),
        "pairs_without_verdict": how.rate([(_prompt(j), float(not j.said), 1.0) for j in judged]),
    }


def agreement(judged: Sequence[JudgedPair], how: Measuring) -> dict[str, Rate | None]:
    """With the side of all votes: in three classes, where both decide (``agreement_single``: of those the pairs with one vote, which no
    person can be left out of), and Cohen's kappa of the three classes."""
    both = [j for j in judged if j.said and j.votes]
    decided = [j for j in both if "tie" not in (j.said, j.people)]
    single = [j for j in decided if len(j.votes) == 1]
    return {
        "agreement": how.rate([(_prompt(j), float(j.said == j.people), 1.0) for j in both]),
        "agreement_decided": how.rate([(_prompt(j), float(j.said == j.people), 1.0) for j in decided]),
        **({"agreement_single": how.rate([(_prompt(j), float(j.said == j.people), 1.0) for j in single])} if single else {}),
        "kappa": how.of_totals([(_prompt(j), _cell(j.said, j.people)) for j in both], kappa, len(both)),
        "ties": how.rate([(_prompt(j), float(j.said == "tie"), 1.0) for j in judged if j.said]),
        "ties_of_people": how.rate([(_prompt(j), float(j.people == "tie"), 1.0) for j in both]),
    }


def beside_people(judged: Sequence[JudgedPair], how: Measuring) -> dict[str, Rate | None]:
    """Each person against the side of the others, and the judge against the very same others: what a person who is left out would reach.

    ``people_gap`` is the judge's rate less people's where all of them decide, in the same resamples; its ``pairs`` are those that the
    judge and somebody's others decide."""
    several = [j for j in judged if j.said and len(j.votes) > 1]
    of_pair = [[(_prompt(j), v, majority(j.votes[:k] + j.votes[k + 1 :]), j.said) for k, v in enumerate(j.votes)] for j in several]
    rows = [row for of_one in of_pair for row in of_one]
    people = [r for r in rows if "tie" not in (r[1], r[2])]
    judge = [r for r in rows if "tie" not in (r[3], r[2])]
    pairs = sum(any("tie" not in (r[3], r[2]) for r in of_one) for of_one in of_pair)
    gap = [(p, (float(v == o), 1.0, 0.0, 0.0)) for p, v, o, _ in people] + [(p, (0.0, 0.0, float(s == o), 1.0)) for p, _, o, s in judge]
    people_gap = how.of_totals(gap, lambda t: t[:, 2] / t[:, 3] - t[:, 0] / t[:, 1], len(people) + len(judge))
    return {
        "people": how.rate([(p, float(v == o), 1.0) for p, v, o, _ in rows]),
        "people_decided": how.rate([(p, float(v == o), 1.0) for p, v, o, _ in people]),
        "people_kappa": how.of_totals([(p, _cell(v, o)) for p, v, o, _ in rows], kappa, len(rows)),
        "judge_beside": how.rate([(p, float(s == o), 1.0) for p, _, o, s in rows]),
        "judge_beside_decided": how.rate([(p, float(s == o), 1.0) for p, _, o, s in judge]),
        "judge_beside_kappa": how.of_totals([(p, _cell(s, o)) for p, _, o, s in rows], kappa, len(rows)),
        "people_gap": None if people_gap is None else people_gap | {"pairs": pairs},
    }


def order(judged: Sequence[JudgedPair], how: Measuring) -> dict[str, Rate | None]:
    """``order_flip``: pairs that both orders decide, each another way. ``first_shown``: decided calls that take the answer shown first.
    ``same_place``: calls that say the judge's commonest place (first shown, second shown, tie): 1 = its output is constant."""
    flips: list[Case] = []
    places: list[tuple[str, str]] = []
    for j in judged:
        calls = [(q, s) for q, s in j.verdict.calls if s.chosen]
        places += [(_prompt(j), "tie" if s.chosen == "tie" else str(q.order.index(SIDES.index(s.chosen)))) for q, s in calls]
        sides = [s.chosen for q, s in calls if q.sample == 0]
        if len(sides) == 2 and "tie" not in sides:
            flips.append((_prompt(j), float(sides[0] != sides[1]), 1.0))
    common = Counter(place for _, place in places).most_common(1)
    return {
        "order_flip": how.rate(flips),
        "first_shown": how.rate([(p, float(place == "0"), 1.0) for p, place in places if place != "tie"]),
        "same_place": how.rate([(p, float(place == common[0][0]), 1.0) for p, place in places]),
    }


def _repeats(judged: Sequence[JudgedPair]) -> list[Case]:
    """The same order asked again: does it say another of the three?"""
    found: list[Case] = []
    for j in judged:
        by: dict[tuple[int, ...], list[str]] = {}
        for q, s in sorted(j.verdict.calls, key=lambda call: call[0].sample):
            if s.chosen:
                by.setdefault(q.order, []).append(s.chosen)
        found += [(_prompt(j), float(a != b), 1.0) for sides in by.values() for a, b in itertools.pairwise(sides)]
    return found


def length_slope(judged: Sequence[JudgedPair], how: Measuring) -> Rate | None:
    """How far the judge's lead (P(first) - P(second)) goes beyond people's for each doubling of length: the least-squares slope through 0,
    which is where it must pass, since the sides may be renamed."""
    rows = [(_prompt(j), _doublings(j), j.verdict.mean.lead - _lead(j.votes)) for j in judged if j.said and j.votes]
    if not any(x for _, x, _ in rows):
        return None
    return how.of_totals([(p, (x * r, x * x)) for p, x, r in rows], lambda t: t[:, 0] / t[:, 1], len(rows))


def favour(judged: Sequence[JudgedPair], family: str, how: Measuring) -> dict[str, Rate | None]:
    """Of pairs with one answer of the judge's family that the judge, or people, decide: how often it is that one, and the difference."""
    rows = [(j, own) for j in judged if family and (own := own_side(j.question, family)) and j.votes and j.said]
    judge = [(_prompt(j), float(j.said == own)) for j, own in rows if j.said != "tie"]
    people = [(_prompt(j), float(j.people == own)) for j, own in rows if j.people != "tie"]
    excess = [(p, (x, 1.0, 0.0, 0.0)) for p, x in judge] + [(p, (0.0, 0.0, x, 1.0)) for p, x in people]
    return {
        "own_family": how.rate([(p, x, 1.0) for p, x in judge]),
        "own_family_of_people": how.rate([(p, x, 1.0) for p, x in people]),
        "own_family_excess": how.of_totals(excess, lambda t: t[:, 0] / t[:, 1] - t[:, 2] / t[:, 3], len(rows)),
    }


def own_side(question: Question, family: str) -> str:
    """The side whose answer is of the family, where the other's is not; "" otherwise."""
    own = [a.origin.get("family") == family for a in question.answers]
    return "" if sum(own) != 1 else SIDES[own.index(True)]


def calibration(judged: Sequence[JudgedPair], how: Measuring, bins: int = 5) -> dict[str, Any] | None:
    """ECE of the folded probabilities against the votes (ties half), with its interval, and the temperature that mends it, with its own.

    The ECE of a small sample lies above that of many; so does its interval. None without a decided label.
    """
    rows = [(_prompt(j), _log_odds(j.verdict.mean), (1.0 + _lead(j.votes)) / 2.0) for j in judged if j.said and j.votes]
    if not any(y != 0.5 for _, _, y in rows):
        return None
    whole = pair_calibration([m for _, m, _ in rows], [y for _, _, y in rows], bins=bins)
    width = 0.5 / bins
    columns: list[tuple[str, list[float]]] = []
    for prompt, margin, label in rows:
        p = 1.0 / (1.0 + math.exp(-margin))
        confidence, outcome = max(p, 1 - p), label if p > 0.5 else 1 - label if p < 0.5 else 0.5
        k = min(max(math.ceil((confidence - 0.5) / width) - 1, 0), bins - 1)
        row = [0.0] * (2 * bins) + [1.0]
        row[2 * k : 2 * k + 2] = [confidence, outcome]
        columns.append((prompt, row))
    ece = how.of_totals(columns, lambda t: np.abs(t[:, 0:-1:2] - t[:, 1:-1:2]).sum(1) / t[:, -1], len(rows))
    return {"ece": ece, "bins": whole.to_json()["bins"], "temperature": _temperature(rows, how)}


def _temperature(rows: Sequence[tuple[str, float, float]], how: Measuring) -> Rate:
    """Interval over prompts of the fitted temperature, by the percentile bootstrap of fits."""
    by: dict[str, list[tuple[float, float]]] = {}
    for prompt, margin, label in rows:
        by.setdefault(prompt, []).append((margin, label))
    groups = [by[name] for name in sorted(by)]
    fits: list[float] = []
    for drawn in _drawn(len(groups), min(_REFITS, how.draws), how.seed):
        flat = [pair for i in drawn for pair in groups[i]]
        fits.append(fit_temperature([m for m, _ in flat], [y for _, y in flat]))
    whole = fit_temperature([m for _, m, _ in rows], [y for _, _, y in rows])
    low, high = np.quantile(fits, [(1 - how.level) / 2, (1 + how.level) / 2])
    return told(Interval(whole, min(float(low), whole), max(float(high), whole), len(groups)), len(rows))


def _drawn(n: int, draws: int, seed: int) -> Array:
    """n places with replacement for each draw: int [draws, n]."""
    keys = np.array([stable_hash("refit", seed, draw) for draw in range(draws)], dtype=np.uint64)
    places = [np.minimum((uniform(keys, k) * n).astype(np.int64), n - 1) for k in range(n)]
    return np.stack(places, axis=1)


def price(judged: Sequence[JudgedPair]) -> dict[str, Any]:
    """What the calls cost; None where one of them is unknown. Calls that a journal had are free and counted apart."""
    calls = [s for j in judged for _, s in j.verdict.calls]
    costs = [s.cost for s in calls]
    total = None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None)
    made = sum(s.made for s in calls)
    tokens = [s.tokens for s in calls if s.tokens is not None]
    return {
        "calls": len(calls),
        "made": made,
        "cost": total,
        "cost_a_call": None if total is None or not made else total / made,
        "cost_unknown": sum(c is None for c in costs),
        "tokens_read": sum(t[0] for t in tokens),
        "tokens_written": sum(t[1] for t in tokens),
    }


def failures_by_kind(judged: Sequence[JudgedPair]) -> dict[str, int]:
    """Failed calls by what stands before the colon of their errors."""
    return dict(sorted(Counter(s.error.partition(":")[0] for j in judged for _, s in j.verdict.calls if s.error).items()))


def kappa(totals: Array) -> Array:
    """Cohen's kappa of totals [draws, 9] of a 3 x 3 table, rows the judge's."""
    table = totals.reshape(-1, 3, 3)
    n = table.sum((1, 2))
    observed = np.trace(table, axis1=1, axis2=2) / n
    expected = (table.sum(2) * table.sum(1)).sum(1) / n**2
    return (observed - expected) / (1 - expected)


def _cell(a: str, b: str) -> list[float]:
    row = [0.0] * 9
    row[3 * SIDES.index(a) + SIDES.index(b)] = 1.0
    return row


def _prompt(j: JudgedPair) -> str:
    return j.question.prompt.prompt_id


def _lead(votes: Sequence[str]) -> float:
    return (votes.count("first") - votes.count("second")) / len(votes)


def _doublings(j: JudgedPair) -> float:
    first, second = (len(a.text) + 1 for a in j.question.answers)
    return math.log2(first / second)


def _log_odds(said: Said) -> float:
    p = min(max((1.0 + said.lead) / 2.0, _CLIP), 1.0 - _CLIP)
    return math.log(p / (1.0 - p))


def summary(found: Mapping[str, Any]) -> list[str]:
    """The rates in lines."""
    lines = []
    for name, x in found.items():
        lines.append(f"{name}: no case" if x is None else f"{name}: {x['mean']:.3f} [{x['low']:.3f}, {x['high']:.3f}] (n {x['cases']})")
    return lines
