"""What a measure found: rates with intervals, what they are silent about beside them, and rates by type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.evaluate.statistics import Interval, cluster_bootstrap, wilson
from keel.rewards.checks import Verdict

WEIGHTS: Mapping[str, float] = {"object": 0.5, "attribute": 0.3, "relation": 0.2}
Share = tuple[str, float, float]
"""(cluster, numerator, denominator): one answer's part of a ratio of sums. A cluster is what is independent: an image, mostly."""


@dataclass(frozen=True, slots=True)
class TypeRate:
    """Of one type of hallucination: how often, and how much of what is true was said."""

    rate: Interval | None
    coverage: Interval | None


@dataclass(frozen=True, slots=True)
class Result:
    """A measure of one file. A rate is None where nothing was there to count; ``notes`` then says why.

    ``coverage`` is the share of what should have been said or answered that was; ``printed`` holds the numbers of the published script
    (mode ``original``); ``named`` lists ids by what was odd about them; ``ways`` says how words were found; ``rows`` has one entry an
    answer.
    """

    rates: Mapping[str, Interval | None]
    coverage: Interval | None
    counts: Mapping[str, int]
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    types: Mapping[str, TypeRate] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Interval | None]] = field(default_factory=dict)
    printed: Mapping[str, Any] = field(default_factory=dict)
    ways: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    verdicts: tuple[Verdict, ...] = ()  # on each answer, for people to check; of measures that judge free text


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement about an image: is it true, and did the model affirm it (None: it did not say)?"""

    cluster: str
    type: str
    true: bool
    affirmed: bool | None


def ratio(shares: Sequence[Share], draws: int) -> Interval | None:
    """``sum(numerators) / sum(denominators)`` with an interval over clusters; None where the denominators are all 0.

    Wilson's interval where each cluster is one yes or no, or where all clusters have the same ratio (a bootstrap would claim certainty);
    the cluster bootstrap else.
    """
    sums: dict[str, list[float]] = {}
    for cluster, above, below in shares:
        entry = sums.setdefault(cluster, [0.0, 0.0])
        entry[0] += above
        entry[1] += below
    kept = [(a, b) for a, b in sums.values() if b > 0]
    if not kept:
        return None
    ratios = {a / b for a, b in kept}
    share = all(0 <= r <= 1 for r in ratios)  # not so where one noun may hit two targets
    if (share and len(ratios) == 1) or (ratios <= {0.0, 1.0} and all(b == 1 for _, b in kept)):
        return wilson(sum(a / b for a, b in kept), len(kept))
    return cluster_bootstrap([a for a, _ in kept], [b for _, b in kept], draws=draws)


def type_rates(claims: Sequence[Claim], draws: int) -> dict[str, TypeRate]:
    """By type: the share of untrue statements that were affirmed, among those that were answered, and the share of all true ones that
    were affirmed. A model that says nothing has no rate and a coverage of 0."""
    found: dict[str, TypeRate] = {}
    for name in dict.fromkeys(c.type for c in claims):
        of = [c for c in claims if c.type == name]
        false = [(c.cluster, float(c.affirmed), 1.0) for c in of if not c.true and c.affirmed is not None]
        true = [(c.cluster, float(c.affirmed is True), 1.0) for c in of if c.true]
        found[name] = TypeRate(ratio(false, draws), ratio(true, draws))
    return found


def overall(types: Mapping[str, TypeRate]) -> dict[str, Any] | None:
    """Rate and coverage of object, attribute and relation, weighted 0.5 / 0.3 / 0.2; None unless each of them has both."""
    if any(name not in types or types[name].rate is None or types[name].coverage is None for name in WEIGHTS):
        return None
    both: dict[str, float] = {"rate": 0.0, "coverage": 0.0}
    for name, weight in WEIGHTS.items():
        rate, coverage = types[name].rate, types[name].coverage
        assert rate is not None
        assert coverage is not None
        both["rate"] += weight * rate.mean
        both["coverage"] += weight * coverage.mean
    return {**both, "weights": dict(WEIGHTS)}


def to_json(result: Result) -> dict[str, Any]:
    """The result as it stands in the file of ``--json`` (without the rows)."""

    def shown(value: Interval | None) -> dict[str, float | int] | None:
        return value.to_json() if value is not None else None

    types = {k: {"rate": shown(t.rate), "coverage": shown(t.coverage)} for k, t in result.types.items()}
    return {
        "rates": {k: shown(v) for k, v in result.rates.items()},
        "coverage": shown(result.coverage),
        "types": types,
        "overall": overall(result.types),
        "parts": {k: {n: shown(v) for n, v in part.items()} for k, part in result.parts.items()},
        "printed": dict(result.printed),
        "counts": dict(result.counts),
        "named": {k: list(v) for k, v in result.named.items()},
        "ways": dict(result.ways),
        "notes": list(result.notes),
    }
