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

    Two sets with J > t share one of their first |s| - ceil(t |s|) + 1 elements, in any one order of all elements; rare ones first make the
    lists short.
    """
    parts = [tuple(map(grams, texts_of(r))) for r in records]
    whole = [frozenset().union(*p) for p in parts]
    count = Counter(g for s in whole for g in s)
    heads = [_head(record) for record in records]
    seen: defaultdict[tuple[Hashable, Gram], list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for i, gram_set in enumerate(whole):
        order = sorted(gram_set, key=lambda g: (count[g], g))
        prefix = order[: len(order) - math.ceil(_of_whole(threshold, len(parts[i])) * len(order)) + 1]
        candidates = sorted({j for g in prefix for j in seen[heads[i], g]})
        same = next((j for j in candidates if all(jaccard(a, b) > threshold for a, b in zip(parts[i], parts[j]))), None)
        if same is not None:
            found[i] = same
            continue
        for g in prefix:
            seen[heads[i], g].append(i)
    return found


def _of_whole(threshold: float, n: int) -> float:
    """How alike the unions of ``n`` texts must be at least where each text is more alike than ``threshold``.

    |A_k - B_k| + |B_k - A_k| <= (1 - t) |A_k or B_k| <= (1 - t) |A or B| for each k, and what the unions do not share is among these: so
    J(A, B) >= 1 - n (1 - t). Not below 0: then the filter lets everything through.
    """
    return max(0.0, 1.0 - n * (1.0 - threshold))


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
