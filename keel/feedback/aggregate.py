"""Votes -> training pairs with soft labels, and what of the votes is not in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from keel.data.conversion import comparisons_to_pairs
from keel.data.left_out import LeftOut
from keel.feedback.config import AggregateConfig
from keel.feedback.soft_pairs import aggregated
from keel.types import Comparison, Pair


def aggregate(
    comparisons: Sequence[Comparison], config: AggregateConfig | None = None, reliability: Mapping[str, float] | None = None
) -> tuple[Pair, ...]:
    """One pair for each two candidates that were compared, however many votes there are.

    Soft label: (votes for the chosen + half the ties + s) / (votes + 2 s), s = ``smoothing``; ``majority`` rounds it to 1. The margin is
    the mean strength of the votes for the chosen. ``reliability`` weighs votes by annotator. Raises DataError when protocols are mixed.
    Other methods than ``votes`` and ``majority`` are those of `soft_pairs`.
    """
    config = config or AggregateConfig()
    if config.method not in ("votes", "majority"):
        return aggregated(comparisons, config, reliability).pairs
    config = config.model_copy(update={"label": "majority"}) if config.method == "majority" else config
    votes = Counter((c.prompt.prompt_id, frozenset(x.text for x in c.candidates)) for c in comparisons)
    mean_votes = votes.total() / len(votes) if votes else 1.0
    result: list[Pair] = []
    for pair in comparisons_to_pairs(comparisons, reliability, config.ties):
        n = votes[pair.prompt.prompt_id, frozenset((pair.chosen[0].text, pair.rejected[0].text))]
        if config.label == "majority":
            label, tie = (1.0, 0.0) if pair.label > 0.5 else (0.5, 1.0)
        else:
            label = (pair.label * n + config.smoothing) / (n + 2.0 * config.smoothing)
            tie = pair.tie * n / (n + 2.0 * config.smoothing)
        result.append(replace(pair, label=label, tie=tie, weight=n / mean_votes if config.weight == "votes" else 1.0))
    return tuple(result)


def left_out(comparisons: Sequence[Comparison], pairs: Sequence[Pair]) -> tuple[LeftOut, ...]:
    """The votes that made none of ``pairs``: those of two answers whose votes are even, with ``ties=drop``. Each by name."""
    made = {(p.prompt.prompt_id, frozenset((p.chosen[0].text, p.rejected[0].text))) for p in pairs}
    reason = "the votes on its two answers are even (preferences.aggregate.ties=keep keeps them as a tie)"
    return tuple(
        LeftOut(c.record_id, c.source_id or c.prompt.source_id, reason)
        for c in comparisons
        if (c.prompt.prompt_id, frozenset(x.text for x in c.candidates)) not in made
    )


def counts(comparisons: Sequence[Comparison], pairs: Sequence[Pair]) -> dict[str, int]:
    """What became of the votes: those ``for`` the chosen answer of their pair, ``against`` it (a soft label has their share, a majority
    loses them), called a ``tie``, and ``left_out`` with pairs that are even."""
    chosen = {(p.prompt.prompt_id, frozenset((p.chosen[0].text, p.rejected[0].text))): p.chosen[0].text for p in pairs}
    found = Counter({"for": 0, "against": 0, "tie": 0, "left_out": 0})
    for c in comparisons:
        better = chosen.get((c.prompt.prompt_id, frozenset(x.text for x in c.candidates)))
        if better is None:
            found["left_out"] += 1
        elif c.outcome == "tie":
            found["tie"] += 1
        else:
            found["for" if c.candidates[0 if c.outcome == "first" else 1].text == better else "against"] += 1
    return dict(found)
