"""What the runs say: the change of the measure for each switch, and what of it may be called found."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keel.evaluate.statistics import LEVEL, Estimate, Interval, clustered, holm
from keel.tune.compare import Outcome, compare

Verdict = Literal["better", "worse", "cannot tell", "changes nothing"]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change does. ``change``: the measure with it less the measure of the recipe as it stands, in the measure's own units. ``p``:
    of no change, the larger of that over seeds and that over prompts; ``p_holm``: the same beside all other changes (Holm 1979)."""

    verdict: Verdict
    why: str
    change: Interval | None
    p: float | None
    p_holm: float | None
    seeds: int
    prompts: int


def effects(
    own: Sequence[Row], changed: Mapping[str, Sequence[Row]], outcomes: Mapping[int, Sequence[Outcome]], higher: bool
) -> dict[str, Effect]:
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
        why = "weights and measure are the same bit for bit on every seed: this setting has no effect in this recipe"
        return Effect("changes nothing", why, Interval(0.0, 0.0, 0.0, n), None, None, n, 0)
    told = compare(before, after, higher)
    if told.difference is None:  # a run that did not come to its end, or no number
        return Effect(_verdict(told.verdict), told.why, None, None, None, n, 0)
    over_seeds, over_prompts = gaps_of(before, after)
    seen = [x for x in (over_seeds, over_prompts) if x is not None and x.n > 1]
    ends = [x.interval() for x in seen]
    change = Interval(over_seeds.mean, min(i.low for i in ends), max(i.high for i in ends), n)
    p, prompts = max(x.p_value() for x in seen), over_prompts.n if over_prompts is not None else 0
    if change.low <= 0 <= change.high:
        return Effect("cannot tell", "0 is in the interval", change, p, None, n, prompts)
    side = "above" if change.low > 0 else "below"
    verdict: Verdict = "better" if (change.low > 0) == higher else "worse"
    return Effect(verdict, f"the whole interval is {side} 0", change, p, None, n, prompts)


def gaps_of(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[Estimate, Estimate | None]:
    """The mean change over seeds, and over prompts: each with its changes on all seeds that have it on both sides, as seeds may hold out
    different prompts. None where the measure is not known by prompt."""
    over_seeds = clustered([b.value - a.value for a, b in zip(before, after, strict=True)])
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for a, b in zip(before, after, strict=True):
        for prompt in a.by_prompt.keys() & b.by_prompt.keys():
            by_prompt[prompt].append(b.by_prompt[prompt] - a.by_prompt[prompt])
    if not by_prompt:
        return over_seeds, None
    order = sorted(by_prompt)
    return over_seeds, clustered([math.fsum(by_prompt[p]) for p in order], [float(len(by_prompt[p])) for p in order])


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
