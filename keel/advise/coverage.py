"""What prompts cover: how many there are, in which languages, about what, and how many of them are nearly the same."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from keel.core.hashing import stable_hash
from keel.data.identity import cluster_key, content_key
from keel.data.text import distinct, language, words
from keel.types import Prompt

NEAR = 0.8  # Jaccard similarity of two prompts' shingles from which they are nearly the same
MOST = 20_000  # prompts that are compared for nearness; a larger set is represented by so many of them
_SHINGLE, _HASHES, _BANDS = 5, 32, 8
_TOPICS = 8


def coverage(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Measures of the prompts of all records (each once by id).

    ``distinct`` counts different contents, ``distinct_wording`` those that differ in more than case, spaces and marks, ``near_duplicates``
    those that resemble an earlier one (Jaccard similarity of character 5-grams of at least 0.8), ``variety`` the different word pairs over
    all word pairs. ``languages`` and ``topics`` (frequent words that stand in under half of a language's prompts) count prompts.
    """
    wordings: dict[str, Prompt] = {}
    for prompt in prompts:
        wordings.setdefault(cluster_key(prompt), prompt)
    texts = [p.last_user_text for p in wordings.values()][:MOST]
    spoken = [(language(text) or "none", text) for text in texts]
    return {
        "prompts": len(prompts),
        "distinct": len({content_key(p) for p in prompts}),
        "distinct_wording": len(wordings),
        "compared": len(texts),
        "near_duplicates": near_duplicates(texts),
        "variety": distinct(texts, 2),
        "languages": dict(Counter(name for name, _ in spoken).most_common()),
        "topics": {name: topics([t for n, t in spoken if n == name]) for name in dict(Counter(n for n, _ in spoken).most_common())},
    }


def topics(texts: Sequence[str]) -> dict[str, int]:
    """The words that most prompts share without being in half of them or more, with the number of prompts; in Chinese two characters
    side by side are taken for a word. Words of under four letters say little and are left out."""
    found: Counter[str] = Counter()
    for text in texts:
        said = words(text)
        pairs = {a + b for a, b in itertools.pairwise(said) if len(a) == len(b) == 1 and not (a + b).isascii()}
        found.update(pairs | {w for w in said if len(w) > 3})
    kept = [(word, n) for word, n in found.items() if n > 1 and 2 * n < len(texts)]
    return dict(sorted(kept, key=lambda item: (-item[1], item[0]))[:_TOPICS])


def near_duplicates(texts: Sequence[str]) -> int:
    """How many texts resemble an earlier one. Candidates share a band of MinHash values (Broder 1997); each is then compared exactly."""
    grams = [_shingles(text) for text in texts]
    seeds = np.array([stable_hash("minhash", i) | 1 for i in range(_HASHES)], dtype=np.uint64)
    buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    found = 0
    for i, own in enumerate(grams):
        if not own:
            continue
        keys = _minhash(np.fromiter(own, dtype=np.uint64, count=len(own)), seeds).reshape(_BANDS, -1)
        bands = [(band, keys[band].tobytes()) for band in range(_BANDS)]
        others = {j for band in bands for j in buckets[band][:20]}
        found += any(_jaccard(own, grams[j]) >= NEAR for j in others)
        for band in bands:
            buckets[band].append(i)
    return found


def _shingles(text: str) -> frozenset[int]:
    plain = " ".join(text.lower().split())
    pieces = [plain[i : i + _SHINGLE] for i in range(max(1, len(plain) - _SHINGLE + 1))] if plain else []
    return frozenset(stable_hash(piece) for piece in pieces[:400])


def _minhash(grams_K: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        mixed = grams_K[None, :] * seeds[:, None]
        return (mixed ^ (mixed >> np.uint64(29))).min(axis=1)


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)
