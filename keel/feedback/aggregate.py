"""Votes -> training pairs with soft labels; prompts -> two sides that share nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from keel.data.conversion import comparisons_to_pairs
from keel.data.text import words
from keel.errors import DataError
from keel.feedback.config import AggregateConfig
from keel.hashing import stable_hash
from keel.types import Comparison, ImagePart, Pair, Prompt


class _HasPrompt(Protocol):
    @property
    def prompt(self) -> Prompt: ...


R = TypeVar("R", bound=_HasPrompt)


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
            label = 1.0 if pair.label > 0.5 else 0.5
        else:
            label = (pair.label * n + config.smoothing) / (n + 2.0 * config.smoothing)
        result.append(replace(pair, label=label, weight=n / mean_votes if config.weight == "votes" else 1.0))
    return tuple(result)


def cluster_key(prompt: Prompt) -> str:
    """Equal for prompts that say (and show) the same, whatever their id, case and punctuation."""
    said = words(" ".join(m.text for m in prompt.messages) + " " + (prompt.text or ""))
    parts = (part for m in prompt.messages if not isinstance(m.content, str) for part in m.content)
    return " ".join([*said, *(p.source for p in parts if isinstance(p, ImagePart))])


def split_by_prompt(records: Sequence[R], share: float, seed: int) -> tuple[tuple[R, ...], tuple[R, ...]]:
    """(training, held out): by hash of the prompt's words, so that nothing of one prompt is on both sides.

    ``round(share * prompts)`` prompts are held out, at least one. Raises DataError when a side would be empty.
    """
    keys = {cluster_key(r.prompt) for r in records}
    n = max(1, round(share * len(keys)))
    if not 0.0 < share < 1.0 or n >= len(keys):
        raise DataError(f"cannot hold out {share:g} of {len(keys)} prompts", "a share between 0 and 1 needs at least two different prompts")
    held = set(sorted(keys, key=lambda k: (stable_hash("split", seed, k), k))[:n])
    training = tuple(r for r in records if cluster_key(r.prompt) not in held)
    return training, tuple(r for r in records if cluster_key(r.prompt) in held)
