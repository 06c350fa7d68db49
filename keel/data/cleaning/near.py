"""Near duplicates without comparing all with all: exact, by the prefix filter of set-similarity joins (Chaudhuri et al. 2006; Bayardo et
al. 2007)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from keel.data.cleaning.texts import Gram, grams, images_of, numbers, texts_of
from keel.data.findings import judged, truth_key
from keel.data.identity import Item


def jaccard(a: frozenset[Gram], b: frozenset[Gram]) -> float:
    """|a and b| / |a or b|; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_duplicates(records: Sequence[Item], threshold: float) -> dict[int, int]:
    """Place of a record -> place of an earlier, kept one that it nearly repeats: each of its texts (prompt, answers) has a Jaccard
    overlap of words and word pairs above ``threshold`` with the other's, and kind, label, right answer, images and numbers are the same.

    Where each text's overlap is above t, so is that of all together, each gram marked with its text: |A_k and B_k| > t |A_k or B_k| adds up
    over disjoint sets. Two sets with J > t share one of their first |s| - ceil(t |s|) + 1 elements, in any one order of all elements; rare
    ones first make the lists short.
    """
    parts = [tuple(map(grams, texts_of(r))) for r in records]
    count = Counter((k, g) for found in parts for k, part in enumerate(found) for g in part)
    heads = [_head(record) for record in records]
    seen: defaultdict[tuple[Hashable, tuple[int, Gram]], list[int]] = defaultdict(list)
    repeats: dict[int, int] = {}
    for i, mine in enumerate(parts):
        whole = sorted(((k, g) for k, part in enumerate(mine) for g in part), key=lambda x: (count[x], x))
        prefix = whole[: len(whole) - math.ceil(threshold * len(whole)) + 1]
        candidates = sorted({j for g in prefix for j in seen[heads[i], g]})
        same = next((j for j in candidates if all(jaccard(a, b) > threshold for a, b in zip(mine, parts[j]))), None)
        if same is not None:
            repeats[i] = same
            continue
        for g in prefix:
            seen[heads[i], g].append(i)
    return repeats


def _head(record: Item) -> Hashable:
    said = [numbers(t) for t in texts_of(record)]
    about, judgement = judged(record)
    label: Hashable = None
    if judgement is not None:  # which side won, without the texts, which may differ a little
        label = _direction(record) if isinstance(about, tuple) else judgement
    return (type(record).__name__, len(said), tuple(said), truth_key(record), images_of(record), label)


def _direction(record: Item) -> Hashable:
    names = ("label", "outcome", "ranks", "scores", "desirable", "labels", "annotator_id")
    return tuple((n, str(getattr(record, n))) for n in names if hasattr(record, n))
