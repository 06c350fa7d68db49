"""What labels a reward model's data hold, and which losses and head follow from them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.core.errors import ConfigError, DataError
from keel.data.dataset import Dataset
from keel.methods.objectives.reward import PairLoss, RewardObjective
from keel.models.config import HeadConfig
from keel.models.heads import HeadSpec
from keel.types import Comparison, Ranking, Rating, Steps
from keel.verbs.reward.config import RewardLossConfig
from keel.verbs.shared.labels import of_reward, pairs_of

MAX_LEVELS = 11  # 0 to 10


@dataclass(frozen=True, slots=True)
class Labels:
    """Counts of the kinds of labels, and the values of ratings by dimension."""

    pairs: int = 0
    ties: int = 0  # pairs with any vote for a tie
    soft: int = 0  # pairs whose annotators disagree
    margin: float = 0.0  # the largest
    rankings: int = 0
    steps: int = 0
    votes: int = 0  # comparisons that made pairs, several of them one
    even: int = 0  # pairs whose votes are even: they teach that neither is better
    ratings: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])

    def summary(self) -> dict[str, Any]:
        """For the run's summary: what there is."""
        found = {"pairs": self.pairs, "ties": self.ties, "soft": self.soft, "rankings": self.rankings, "steps": self.steps}
        found |= {"votes": self.votes, "even": self.even}
        return {k: v for k, v in found.items() if v} | ({"ratings": {k: len(v) for k, v in self.ratings.items()}} if self.ratings else {})


def read_labels(dataset: Dataset) -> Labels:
    """The labels of a data set. Raises DataError for records that a reward model cannot learn from."""
    records = of_reward(dataset)
    pairs = pairs_of(records)
    values: dict[str, list[float]] = defaultdict(list)
    for rating in (r for r in records if isinstance(r, Rating)):
        for name, value in rating.scores.items():
            values[name].append(value)
    return Labels(
        pairs=len(pairs),
        ties=sum(p.tie > 0 for p in pairs),
        soft=sum(0 < p.label < 1 and p.tie < 1 for p in pairs),
        margin=max((p.margin for p in pairs), default=0.0),
        rankings=sum(isinstance(r, Ranking) for r in records),
        steps=sum(isinstance(r, Steps) for r in records),
        votes=sum(isinstance(r, Comparison) for r in records),
        even=sum(p.label == 0.5 for p in pairs),
        ratings=dict(values),
    )


def settle(
    head: HeadConfig, loss: RewardLossConfig, margin: float | None, centring: float, labels: Labels
) -> tuple[HeadSpec, RewardObjective]:
    """The head and the objective that fit the labels. ``margin`` None: the largest margin of the data asks for a lead of 1.

    Raises ConfigError for settings that these labels cannot follow.
    """
    pairs = _pair_loss(loss, labels)
    names, weights = _dimensions(head, labels)
    output = head.output
    values = sorted({v for name in names for v in labels.ratings.get(name, ())})
    if output == "auto":
        stepped = 2 <= len(values) <= MAX_LEVELS and all(v == int(v) for v in values) and head.bound == "none"
        output = "ordinal" if stepped else "point"
    if output in ("ordinal", "distribution") and len(values) < 2:
        raise ConfigError(f"head.output={output} chooses between levels of ratings, and the data have {len(values)}", "use output=point")
    levelled = output in ("ordinal", "distribution")
    units = tuple(_moments(values if levelled else labels.ratings.get(name, ())) for name in names)
    levels = tuple((v - units[0][0]) / units[0][1] for v in values) if levelled else ()
    ties = pairs in ("davidson", "rao_kupper")
    if ties and margin:
        raise ConfigError(f"margin={margin} would have no effect: {pairs} knows no margin", "use loss.pairs=bradley_terry, or leave it out")
    lead = margin if margin is not None else (1.0 / labels.margin if labels.margin > 0 and not ties else 0.0)
    least = loss.least_margin if pairs == "hinge" else 0.0
    which = pairs if ties else "davidson"
    spec = HeadSpec(
        head.trunk, head.width, head.pooling, head.norm, head.bound, output, names, weights, units, levels, head.members, ties, which
    )
    return spec, RewardObjective(centring, lead, pairs, least, loss.smoothing, loss.self_trust, names, weights, units, levels)


def _pair_loss(loss: RewardLossConfig, labels: Labels) -> PairLoss:
    if "least_margin" in loss.changed and loss.pairs != "hinge":
        raise ConfigError("loss.least_margin would have no effect: it is the hinge's", "use loss.pairs=hinge, or leave it out")
    if loss.pairs == "auto":
        return "davidson" if labels.ties else "bradley_terry"
    if loss.pairs in ("davidson", "rao_kupper") and not labels.ties:
        raise ConfigError(f"loss.pairs={loss.pairs} learns how likely ties are, and the data have none", "use loss.pairs=bradley_terry")
    return loss.pairs


def _dimensions(head: HeadConfig, labels: Labels) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names and weights of the dimensions; one named ``score`` without ratings."""
    asked = head.dimensions or list(head.weights)
    missing = [name for name in asked if name not in labels.ratings]
    if missing:
        there = f"the ratings are of: {', '.join(labels.ratings)}" if labels.ratings else "the data have no ratings"
        raise ConfigError(f"head.dimensions: nothing is rated by {', '.join(map(repr, missing))}; {there}", "name what is there")
    names = tuple(asked or sorted(labels.ratings) or ("score",))
    return names, tuple(head.weights.get(name, 0.0) if head.weights else 1.0 / len(names) for name in names)


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation; (0, 1) of nothing and of what does not vary."""
    if not values:
        return 0.0, 1.0
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    return mean, std or 1.0


def labels_line(labels: Labels, spec: HeadSpec, objective: RewardObjective) -> str:
    """What was found and what follows from it, for the log."""
    parts: list[str] = []
    if labels.pairs:
        margin = f", margin {objective.margin:.3g} x the data's" if objective.margin else ""
        apart = f"{labels.soft} with disagreement, {labels.even} even"
        parts.append(f"{labels.pairs} pairs ({labels.ties} with ties, {apart}): {objective.pairs}{margin}")
    if labels.rankings:
        parts.append(f"{labels.rankings} rankings: plackett_luce")
    if labels.ratings:
        parts.append(f"ratings of {', '.join(spec.dimensions)}: {spec.output}")
    if labels.steps:
        parts.append(f"{labels.steps} stepwise answers: cross-entropy of each step")
    if not parts:
        raise DataError("there is no label to learn from", "give pairs, comparisons, rankings, ratings or stepwise labels")
    return "labels: " + "; ".join(parts)
