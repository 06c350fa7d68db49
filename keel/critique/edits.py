"""How much a text was changed."""

from __future__ import annotations

from collections.abc import Sequence

from keel.data.text import words

_LONGEST = 2000  # units of a text that are compared


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements that make ``b`` of ``a``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def edit_share(a: str, b: str) -> float:
    """Words (Han characters) changed, over those of the longer text: 0 = the same words, 1 = no word kept in its place."""
    one, two = words(a)[:_LONGEST], words(b)[:_LONGEST]
    return distance(one, two) / max(len(one), len(two)) if one or two else 0.0
