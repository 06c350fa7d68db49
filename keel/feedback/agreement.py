"""How far annotators agree: raw agreement, Cohen's and Fleiss' kappa, Krippendorff's alpha. Pure functions of plain sequences.

A coefficient is NaN where it is not defined (all labels equal: no disagreement could be expected, so none can be measured).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from keel.types import Comparison
from keel.types.identity import ItemId, answer_id, item_of

ORDER = {"second": -1, "tie": 0, "first": 1}
Label = Hashable


def raw_agreement(units: Sequence[Sequence[Label]]) -> float:
    """Share of agreeing pairs of labels within units, each unit with two or more labels counting the same."""
    shares = [_pair_agreement(Counter(labels)) for labels in units if len(labels) > 1]
    return sum(shares) / len(shares) if shares else math.nan


def cohen_kappa(a: Sequence[Label], b: Sequence[Label], weights: Literal["none", "linear", "quadratic"] = "none") -> float:
    """Cohen's kappa of two annotators on the same items: 1 - sum(w O) / sum(w E) (Cohen 1960, weighted 1968).

    ``weights="none"`` counts every disagreement the same, which is (p_o - p_e) / (1 - p_e); ``linear`` and ``quadratic`` count the distance
    of the labels' places among all labels sorted, so labels must be sortable.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"two annotators need the same number of labels, at least one: {len(a)} and {len(b)}")
    labels = sorted(set(a) | set(b)) if weights != "none" else list(dict.fromkeys([*a, *b]))  # type: ignore[type-var]
    place = {label: i for i, label in enumerate(labels)}
    cost: Callable[[int, int], float] = {
        "none": lambda i, j: float(i != j),
        "linear": lambda i, j: float(abs(i - j)),
        "quadratic": lambda i, j: float((i - j) ** 2),
    }[weights]
    observed = sum(cost(place[x], place[y]) for x, y in zip(a, b)) / len(a)
    count_a, count_b = Counter(a), Counter(b)
    expected = sum(n * m * cost(place[x], place[y]) for x, n in count_a.items() for y, m in count_b.items()) / len(a) ** 2
    return 1.0 - observed / expected if expected else math.nan


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """Fleiss' kappa (1971) from counts [items][categories]. Items may differ in their number of labels; those with fewer than two are left
    out, and the mean agreement is over items."""
    used = [row for row in counts if sum(row) > 1]
    if not used:
        return math.nan
    observed = sum(_pair_agreement(dict(enumerate(row))) for row in used) / len(used)
    total = sum(map(sum, used))
    expected = sum((sum(column) / total) ** 2 for column in zip(*used, strict=True))
    return (observed - expected) / (1.0 - expected) if expected < 1.0 else math.nan


def krippendorff_alpha(units: Sequence[Sequence[float]], level: Literal["nominal", "ordinal", "interval"] = "nominal") -> float:
    """Krippendorff's alpha (2011): 1 - sum(o d) / sum(e d) over coincidences, for any number of annotators and missing labels.

    ``units[u]`` holds the labels that unit u got, from whomever; units with one label are left out. Ordinal distance:
    (sum of n_g for g = c..k, less (n_c + n_k) / 2) squared; interval: (c - k) squared.
    """
    used = [labels for labels in units if len(labels) > 1]
    total = Counter(label for labels in used for label in labels)
    n = total.total()
    if len(total) < 2:
        return math.nan
    values = sorted(total)

    def distance(c: float, k: float) -> float:
        if level == "ordinal":
            between = sum(total[g] for g in values if min(c, k) <= g <= max(c, k))
            return (between - (total[c] + total[k]) / 2.0) ** 2
        return (c - k) ** 2 if level == "interval" else float(c != k)

    cost = {(c, k): distance(c, k) for c in values for k in values if c != k}
    observed = 0.0
    for labels in used:
        of = Counter(labels)
        observed += sum(of[c] * of[k] * cost[c, k] for c, k in itertools.permutations(of, 2)) / (len(labels) - 1)
    expected = sum(total[c] * total[k] * cost[c, k] for c, k in itertools.permutations(values, 2)) / (n - 1)
    return 1.0 - observed / expected


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the annotators of a set of comparisons agree. ``left_rate`` is how often the answer on the left won (0.5 = no bias)."""

    items: int  # pairs of answers
    votes: int  # the first of each annotator on each item
    repeats: int  # further ones of the same annotator on the same item: they say how far people agree with themselves
    annotators: int
    raw: float
    cohen: float  # mean over all two annotators with common items, weighted by these
    fleiss: float
    alpha: float  # nominal
    alpha_ordinal: float  # second < tie < first
    tie_rate: float
    left_rate: float


def agreement(comparisons: Sequence[Comparison]) -> Agreement:
    """Agreement of the annotators; the items are pairs of candidates, in whichever order a record holds them. Of several votes of one
    annotator on one item the first counts: agreement with oneself is another thing. Gold and adjudicated votes do not belong here."""
    by_item: dict[ItemId, list[int]] = defaultdict(list)
    used: list[Comparison] = []
    by_annotator: dict[str, dict[ItemId, int]] = defaultdict(dict)
    for c in comparisons:
        item = item_of(c)
        vote = ORDER[c.outcome] if answer_id(c.candidates[0]) == item[1] else -ORDER[c.outcome]
        if item not in by_annotator[c.annotator_id]:
            by_annotator[c.annotator_id][item] = vote
            by_item[item].append(vote)
            used.append(c)
    units = list(by_item.values())
    decided = [c for c in used if c.outcome != "tie"]
    left = [c.display_order[0] == (0 if c.outcome == "first" else 1) for c in decided]
    return Agreement(
        items=len(units),
        votes=len(used),
        repeats=len(comparisons) - len(used),
        annotators=len(by_annotator),
        raw=raw_agreement(units),
        cohen=_mean_cohen(list(by_annotator.values())),
        fleiss=fleiss_kappa([[labels.count(v) for v in ORDER.values()] for labels in units]),
        alpha=krippendorff_alpha(units),
        alpha_ordinal=krippendorff_alpha(units, "ordinal"),
        tie_rate=1.0 - len(decided) / len(used) if used else math.nan,
        left_rate=sum(left) / len(left) if left else math.nan,
    )


def _mean_cohen(annotators: Sequence[dict[ItemId, int]]) -> float:
    found: list[tuple[float, int]] = []
    for a, b in itertools.combinations(annotators, 2):
        common = [item for item in a if item in b]
        kappa = cohen_kappa([a[i] for i in common], [b[i] for i in common]) if common else math.nan
        if not math.isnan(kappa):
            found.append((kappa, len(common)))
    return sum(k * n for k, n in found) / sum(n for _, n in found) if found else math.nan


def _pair_agreement(of: dict[Label, int] | Counter[Label]) -> float:
    n = sum(of.values())
    return sum(k * (k - 1) for k in of.values()) / (n * (n - 1))
