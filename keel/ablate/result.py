"""What the runs say: the change of the measure for each switch, and what of it may be called found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keel.evaluate.statistics import LEVEL, Interval, clustered, difference, holm
from keel.tune.compare import Outcome, compare

Verdict = Literal["better", "worse", "cannot tell", "changes nothing"]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change does. ``change``: the measure with it less the measure of the recipe as it stands, in the measure's own units. ``p``: of
    no change, the larger of that over seeds and that over prompts; ``p_holm``: the same beside all other changes (Holm 1979)."""

    verdict: Verdict
    why: str
    change: Interval | None
    p: float | None
    p_holm: float | None
    seeds: int
    prompts: int


def effects(own: Sequence[Row], changed: Mapping[str, Sequence[Row]], outcomes: Mapping[int, Sequence[Outcome]], higher: bool) -> dict[str, Effect]:
    """By name of a change, in order. Rows and outcomes are of the same seeds in their order; ``outcomes[0]`` are the recipe's own, those of
    the i-th change come under i, from 1."""
    found: dict[str, Effect] = {}
    for i, (name, rows) in enumerate(changed.items(), 1):
        found[name] = _effect(own, rows, outcomes[0], outcomes[i], higher)
    adjusted = holm({name: e.p for name, e in found.items() if e.p is not None})
    return {name: _with_holm(e, adjusted.get(name), len(adjusted)) for name, e in found.items()}


def _effect(own: Sequence[Row], rows: Sequence[Row], before: Sequence[Outcome], after: Sequence[Outcome], higher: bool) -> Effect:
    n = len(own)
    if all(_same(a, b) for a, b in zip(own, rows, strict=True)):
        why = "weights and measure are the same bit for bit on every seed: nothing reads this setting here"
        return Effect("changes nothing", why, Interval(0.0, 0.0, 0.0, n), None, None, n, 0)
    told = compare(before, after, higher)
    if told.difference is None:
        return Effect(_verdict(told.verdict), told.why, None, None, None, n, 0)
    sign = 1.0 if higher else -1.0
    d = told.difference
    low, high = sorted((sign * d.low, sign * d.high))
    p = clustered([b.value - a.value for a, b in zip(before, after, strict=True)]).p_value()
    if told.prompts:
        shared = set.intersection(*(set(o.by_prompt) for o in (*before, *after)))
        sides = ({k: [o.by_prompt[k] for o in side] for k in sorted(shared)} for side in (before, after))
        p = max(p, difference(*sides).p_value())
    return Effect(_verdict(told.verdict), told.why, Interval(sign * d.mean, low, high, d.n), p, None, n, told.prompts)


def _verdict(said: str) -> Verdict:
    return "better" if said == "better" else "worse" if said == "worse" else "cannot tell"


def _same(a: Row, b: Row) -> bool:
    """Weights of one digest, and one value to the last bit."""
    return bool(a["weights"]) and a["weights"] == b["weights"] and a["value"] == b["value"] and not a["ended"] and not b["ended"]


def _with_holm(effect: Effect, p_holm: float | None, m: int) -> Effect:
    """What alone leaves 0 out of its interval is found only where it also is beside the other changes."""
    if p_holm is None:
        return effect
    verdict, why = effect.verdict, effect.why
    if verdict in ("better", "worse") and not p_holm <= 1 - LEVEL + 1e-12:
        verdict = "cannot tell"
        why = f"alone its interval leaves 0 out, but one of {m} changes does so by chance too often (p {p_holm:.2g} after Holm)"
    return Effect(verdict, why, effect.change, effect.p, p_holm, effect.seeds, effect.prompts)


def value_of(rows: Sequence[Row]) -> float | None:
    """The mean of the measure over runs that came to their end; None where none did."""
    values = [float(r["value"]) for r in rows if isinstance(r["value"], int | float) and not r["ended"] and math.isfinite(r["value"])]
    return math.fsum(values) / len(values) if values else None
