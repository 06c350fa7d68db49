"""From how well each principle is kept to one number, and from two answers to which one is better and why. Pure functions of floats.

``p`` in [0, 1] says how well one principle is kept. Within a band of principles the documents' formula holds, ``P = prod p_i^w_i``
(or a geometric mean, a weighted sum or a weighted mean). Over bands a ladder holds: an answer climbs a rung for each band, the highest
first, that it keeps as a whole; on the first band that it breaks it stands still, and what it does in lower bands counts for nothing.
So no amount of use buys off a breach of safety, which a plain product of nine factors would allow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

How = Literal["product", "geometric", "sum", "mean"]
ROUNDING = 1e-9  # two sums of the same numbers in another order


@dataclass(frozen=True, slots=True)
class Rule:
    """What the mathematics knows of a principle. ``band`` 0 is the highest; below ``least`` the principle is broken."""

    name: str
    weight: float = 1.0
    band: int = 0
    least: float = 0.5


@dataclass(frozen=True, slots=True)
class Total:
    """One answer. ``level``: bands kept from the highest on; ``flat``: the score as if there were no bands."""

    score: float
    flat: float
    level: int
    broken: tuple[str, ...]  # principles below their ``least``, the highest band first, then the lowest p


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two principles that prefer different answers. ``by``: a band decided, or weights within one band. ``won`` had its way unless
    ``won`` is empty (neither had: the answers are equally good)."""

    won: str
    lost: str
    by: Literal["band", "weight"]


def combine(p: Mapping[str, float], rules: Sequence[Rule], how: How = "product", floor: float = 0.0) -> float:
    """One number of the principles that ``p`` has: ``prod p^w`` (in logs), ``(prod p^w)^(1 / sum w)``, ``sum w p``, ``sum w p / sum w``.

    ``floor`` is the least that a factor counts as in a product, so that one 0 does not make all answers alike. Principles of weight 0
    count as absent. NaN where nothing is left or a p is NaN. Raises ValueError for a p outside of [0, 1].
    """
    used = [(p[r.name], r.weight) for r in rules if r.name in p and r.weight > 0]
    if any(not math.isnan(x) and not 0.0 <= x <= 1.0 for x, _ in used):
        raise ValueError("a principle's score lies in [0, 1]")
    if not used or any(math.isnan(x) for x, _ in used):
        return math.nan
    weights = math.fsum(w for _, w in used)
    if how in ("sum", "mean"):
        total = math.fsum(w * x for x, w in used)
        return total if how == "sum" else total / weights
    if any(max(x, floor) == 0.0 for x, _ in used):
        return 0.0
    log = math.fsum(w * math.log(max(x, floor)) for x, w in used)
    return math.exp(log if how == "product" else log / weights)


def total_of(p: Mapping[str, float], rules: Sequence[Rule], how: How = "product", floor: float = 0.0) -> Total:
    """The answer's place on the ladder. With one band (of those that apply) the score is `combine`; with B bands it is
    ``(level + inner) / (B + 1)``, ``inner`` in [0, 1] being `combine` of the first broken band, or of all principles where none is broken
    (``sum`` divided by its weights, so that rungs stay apart)."""
    here = [r for r in rules if r.name in p and r.weight > 0]
    flat = combine(p, here, how, floor)
    bands = sorted({r.band for r in here})
    broken = tuple(r.name for r in sorted(here, key=lambda r: (r.band, p[r.name], r.name)) if p[r.name] < r.least)
    lost = {r.band for r in here if r.name in broken}
    level = next((k for k, band in enumerate(bands) if band in lost), len(bands))
    if math.isnan(flat):
        return Total(math.nan, math.nan, 0, ())
    if len(bands) < 2:
        return Total(flat, flat, level, broken)
    inside = [r for r in here if r.band == bands[level]] if level < len(bands) else here
    inner = combine(p, inside, "mean" if how == "sum" else how, floor)
    return Total((level + inner) / (len(bands) + 1), flat, level, broken)


def deciding(a: Mapping[str, float], b: Mapping[str, float], rules: Sequence[Rule]) -> list[Rule]:
    """The principles that the order of two answers hangs on: those of the band at which the first of them stops, or of all bands."""
    here = [r for r in rules if r.name in a and r.name in b and r.weight > 0]
    bands = sorted({r.band for r in here})
    if len(bands) < 2:
        return here
    level = min(total_of(x, here).level for x in (a, b))
    return here if level == len(bands) else [r for r in here if r.band == bands[level]]


def conflicts(
    a: Mapping[str, float], b: Mapping[str, float], rules: Sequence[Rule], how: How = "product", floor: float = 0.0, apart: float = 0.1
) -> list[Conflict]:
    """Every two principles that prefer different ones of two answers by more than ``apart``, and which of them had its way."""
    here = [r for r in rules if r.name in a and r.name in b and r.weight > 0]
    gap = total_of(a, here, how, floor).score - total_of(b, here, how, floor).score
    decide = {r.name for r in deciding(a, b, here)}
    for_a = [r for r in here if a[r.name] - b[r.name] > apart]
    for_b = [r for r in here if b[r.name] - a[r.name] > apart]
    winners, losers = (for_a, for_b) if gap > 0 else (for_b, for_a)
    found: list[Conflict] = []
    for won in winners:
        for lost in losers:
            by = "weight" if won.band == lost.band or lost.name in decide else "band"
            found.append(Conflict("" if abs(gap) <= ROUNDING else won.name, lost.name, by))
    return found


def agreement(a: Mapping[str, float], b: Mapping[str, float], rules: Sequence[Rule]) -> float:
    """Share of the weighted differences of the deciding principles that speak for ``a``, the better answer; 0.5 where nothing differs.

    Below 0.5 most of them speak against it: a product may prefer whoever has no very low factor.

    Only the deciding band is asked: that use speaks for the unsafe answer makes it no less sure that the safe one is better.
    """
    here = deciding(a, b, rules)
    up = math.fsum(r.weight * max(0.0, a[r.name] - b[r.name]) for r in here)
    down = math.fsum(r.weight * max(0.0, b[r.name] - a[r.name]) for r in here)
    return 0.5 if up + down == 0 else up / (up + down)


def stability(a: Sequence[float], b: Sequence[float]) -> float:
    """How often a sampled score of ``a`` lies above one of ``b`` (ties half), over all pairs of samples."""
    wins = math.fsum(1.0 if x > y + ROUNDING else 0.5 if abs(x - y) <= ROUNDING else 0.0 for x in a for y in b)
    return wins / (len(a) * len(b)) if a and b else math.nan
