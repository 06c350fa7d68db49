"""Votes -> training pairs with soft labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from keel.data.conversion import comparisons_to_pairs
from keel.feedback.config import AggregateConfig
from keel.types import Comparison, Pair


def aggregate(
    comparisons: Sequence[Comparison], config: AggregateConfig | None = None, reliability: Mapping[str, float] | None = None
) -> tuple[Pair, ...]:
    """One pair for each two candidates that were compared, however many votes there are.

    Soft label: (votes for the chosen + half the ties + s) / (votes + 2 s), s = ``smoothing``; ``majority`` rounds it to 1. The margin is
    the mean strength of the votes for the chosen. ``reliability`` weighs votes by annotator. Raises DataError when protocols are mixed.
    """
    config = config or AggregateConfig()
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
