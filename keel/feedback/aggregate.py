"""Votes -> training pairs with soft labels, and what of the votes is not in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from keel.data.conversion import Tally, pair_name, tallies
from keel.data.left_out import LeftOut
from keel.feedback.config import AggregateConfig
from keel.feedback.reliability.votes import without_repeats
from keel.feedback.soft_pairs import aggregated
from keel.types import Comparison, Pair
from keel.types.identity import ItemId, answer_id, answer_key, item_of


def aggregate(
    comparisons: Sequence[Comparison],
    config: AggregateConfig | None = None,
    reliability: Mapping[str, float] | None = None,
    unknown: float | None = None,
    gold: Mapping[int, int] | None = None,
) -> tuple[Pair, ...]:
    """One pair for each two candidates (by their ids) that were compared, however many votes there are. A person has one vote on them: the
    first in the order of ``comparisons``, whatever they said when they were asked again.

    Soft label: (votes for the chosen + half the ties + s) / (votes + 2 s), s = ``smoothing``; ``majority`` rounds it to 1. The margin is
    the mean strength of the votes for the chosen. ``reliability`` weighs votes by annotator, ``unknown`` those of annotators that are not
    in it. Other methods than ``votes`` and ``majority`` are those of `soft_pairs`; ``gold`` is `aggregated`'s. Raises DataError when
    protocols are mixed, or an annotator is not known and ``unknown`` is not given.
    """
    config = config or AggregateConfig()
    if config.method not in ("votes", "majority"):
        return aggregated(comparisons, config, reliability, gold).pairs
    config = config.model_copy(update={"label": "majority"}) if config.method == "majority" else config
    first, _ = without_repeats(comparisons)
    found = tallies(first, reliability, unknown)
    return tuple(_pair(t, config, len(found), len(first)) for t in found if t.share != 0.5 or config.ties == "keep")


def left_out(comparisons: Sequence[Comparison], pairs: Sequence[Pair]) -> tuple[LeftOut, ...]:
    """The votes that are in none of ``pairs``: those of two answers whose votes are even, with ``ties=drop``, and repeats. Each by name."""
    made = {way_of(p) for p in pairs}
    first, repeats = without_repeats(comparisons)
    even = "the votes on its two answers are even (preferences.aggregate.ties=keep keeps them as a tie)"
    lost = [(c, even) for c in first if not made.intersection(_ways(c))]
    lost += [(c, f"a further vote of {c.annotator_id} on its two answers: a person has one") for c in repeats]
    return tuple(LeftOut(c.record_id, c.source_id or c.prompt.source_id, reason) for c, reason in lost)


def counts(comparisons: Sequence[Comparison], pairs: Sequence[Pair]) -> dict[str, int]:
    """What became of the votes: those ``for`` the chosen answer of their pair, ``against`` it (a soft label has their share, a majority
    loses them), called a ``tie``, and ``left_out`` as `left_out` names them."""
    made = {way_of(p) for p in pairs}
    first, repeats = without_repeats(comparisons)
    found = Counter({"for": 0, "against": 0, "tie": 0, "left_out": len(repeats)})
    for c in first:
        better = next((side for side, way in zip(("first", "second"), _ways(c)) if way in made), None)
        if better is None:
            found["left_out"] += 1
        elif c.outcome == "tie":
            found["tie"] += 1
        else:
            found["for" if c.outcome == better else "against"] += 1
    return dict(found)


def _pair(tally: Tally, config: AggregateConfig, tallied: int, votes_in_all: int) -> Pair:
    if config.label == "majority":
        label, tie = (1.0, 0.0) if tally.share > 0.5 else (0.5, 1.0)
    else:
        votes = tally.weight + 2.0 * config.smoothing
        label = (tally.share * tally.weight + config.smoothing) / votes if votes else 0.5
        tie = tally.tie * tally.weight / votes if votes else 0.0
    weight = len(tally.votes) * tallied / votes_in_all if config.weight == "votes" else 1.0
    return replace(tally.pair(), label=label, tie=tie, weight=weight)


Way = tuple[str, str, str]  # id of a pair, content of its chosen and of its rejected answer


def way_of(pair: Pair) -> Way:
    """What a pair says: of which answers which is better."""
    return pair.record_id, answer_key(pair.chosen), answer_key(pair.rejected)


def ways(item: ItemId) -> tuple[Way, Way]:
    """The pair that the votes on an item make when its first answer wins, and when its second does."""
    prompt, (one, a), (two, b) = item
    return (pair_name(prompt, one, two), a, b), (pair_name(prompt, two, one), b, a)


def _ways(c: Comparison) -> tuple[Way, Way]:
    """The pair that the votes on these two make when the first wins, and when the second does."""
    found = ways(item_of(c))
    return found if answer_id(c.candidates[0]) == item_of(c)[1] else (found[1], found[0])
