"""What judges doubt goes to people first. Pure functions of judgements.

A judge's confidence in a pair is ``(1 + |lead|) / 2``, lead = P(first) - P(second) of the mean over its orders, of several judges the mean
over them; in a ranking it is the likeness of its orders' rankings. It is in doubt where that is below ``sure``, where its orders turn the
verdict, and where a call failed. A tie is doubt: it says nothing of which answer is better.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keel.feedback.answers import disagreement
from keel.types import Choice, Judgement, Ranks

UNJUDGED = 1.0  # the ease of an item that no judge was asked about: behind those in doubt, before the sure ones


@dataclass(frozen=True, slots=True)
class Doubt:
    """What judges came to. ``confidence`` in [0.5, 1], NaN without a verdict; ``torn``: orders turn the verdict, or a call failed."""

    confidence: float = math.nan
    torn: bool = False

    @property
    def known(self) -> bool:
        """Was any judge asked?"""
        return self.torn or not math.isnan(self.confidence)

    def is_sure(self, sure: float) -> bool:
        return not self.torn and self.confidence >= sure  # NaN is not

    def ease(self, sure: float) -> float:
        """The place among items of one urgency: torn ones 0, doubted ones below 1 by their confidence, `UNJUDGED`, sure ones."""
        if not self.known:
            return UNJUDGED
        if self.torn:
            return 0.0
        lead = 2.0 * self.confidence - 1.0
        return UNJUDGED + lead if self.is_sure(sure) else lead


def doubt_of(said: Iterable[Judgement], failed: Iterable[str] = ()) -> Doubt:
    """What judges that ``said`` this of one item (standing judgements: means of purpose ``work``, calls of purpose ``audit``) are sure of.
    ``failed``: judges whose last call gave nothing; a judge whose verdict stands is none of them."""
    by: dict[str, list[Judgement]] = defaultdict(list)
    for j in said:
        by[j.by].append(j)
    means = {name: mean for name, js in by.items() if (mean := next((j for j in js if j.purpose == "work" and j.repeat == 0), None))}
    torn = any(name not in means for name in (*by, *failed))
    torn = torn or any(_turned([j for j in by[name] if j.purpose == "audit"]) for name in means)
    pairs = [lead for j in means.values() if (lead := _lead(j)) is not None]
    if pairs:
        return Doubt((1.0 + abs(math.fsum(pairs) / len(pairs))) / 2.0, torn)
    ranked = [_alike([j for j in by[name] if j.purpose == "audit"]) for name, j in means.items() if isinstance(j.answer, Ranks)]
    return Doubt(0.5 + max(0.0, math.fsum(ranked) / len(ranked) - 0.5), torn) if ranked else Doubt(torn=torn)


def _lead(j: Judgement) -> float | None:
    """``P(first) - P(second)``, as far as an answer tells it; None of what is no choice."""
    if not isinstance(j.answer, Choice):
        return None
    clear = 1.0 if j.answer.strength is None else j.answer.strength
    return {"first": clear, "second": -clear}.get(j.answer.chosen, 0.0)


def _turned(calls: Sequence[Judgement]) -> bool:
    """Does another order say another side? Samples of one order are averaged first."""
    orders: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for j in calls:
        if (lead := _lead(j)) is not None:
            orders[j.display_order].append(lead)
    sides = {(total > 1e-9) - (total < -1e-9) for leads in orders.values() for total in (math.fsum(leads),)}
    return len(sides) > 1


def _alike(calls: Sequence[Judgement]) -> float:
    """How alike the rankings of a judge's calls are; 1 of a single one."""
    return 1.0 - disagreement([j.answer for j in calls])
