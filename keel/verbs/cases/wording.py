"""Texts grouped by their words: TF-IDF and k-means on the sphere, the same on every machine."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keel.core.hashing import stable_hash
from keel.data.text import words

MOST_TERMS = 4000
_FEWEST = 8  # texts; fewer are no matter of groups
_ROUNDS = 30
_HAN = ("\u3400", "\u9fff")
_SAY_NOTHING = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can could do does for from has have how i if in is it me my no not of on one or please so tell that the "
        "their them there they this to us was we what when where which who why will with would you your",
    )
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Places of its texts, and the words that set it apart."""

    members: tuple[int, ...]
    name: str


def terms(text: str) -> list[str]:
    """Words in small letters, but for those that say nothing of a subject; Chinese, which has no spaces, by two characters."""
    found = words(text)
    pairs = [a + b for a, b in itertools.pairwise(found) if _han(a) and _han(b)]
    return [w for w in found if not _han(w) and w not in _SAY_NOTHING] + (pairs or [w for w in found if _han(w)])


def _han(word: str) -> bool:
    return len(word) == 1 and _HAN[0] <= word <= _HAN[1]


def tf_idf(texts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Rows of length 1 (0 for a text without a term), and the terms: those in two texts or more and in at most half of them.
    ``(1 + log tf) * log(n / df)`` (Salton & Buckley 1988). float64 [n, V]."""
    counts = [Counter(terms(text)) for text in texts]
    df = Counter(term for count in counts for term in count)
    kept = sorted((t for t, n in df.items() if 2 <= n <= max(2, len(texts) // 2)), key=lambda t: (-df[t], t))[:MOST_TERMS]
    place = {term: j for j, term in enumerate(kept)}
    table_NV = np.zeros((len(texts), len(kept)))
    for i, count in enumerate(counts):
        for term, n in count.items():
            if term in place:
                table_NV[i, place[term]] = (1 + math.log(n)) * math.log(len(texts) / df[term])
    norms_N1 = np.linalg.norm(table_NV, axis=1, keepdims=True)
    return np.divide(table_NV, norms_N1, out=np.zeros_like(table_NV), where=norms_N1 > 0), kept


def clusters(texts: Sequence[str], k: int = 0, seed: int = 0) -> list[Cluster]:
    """Largest first; empty where the texts are too few or share no words. Texts without a term of the others are in none. ``k`` 0:
    ``sqrt(n / 2)``, from 2 to 12. Begins far apart (Gonzalez 1985), then Lloyd's rounds by cosine."""
    rows_NV, names = tf_idf(texts)
    known = [i for i in range(len(texts)) if rows_NV[i].any()]
    if len(known) < _FEWEST or not names:
        return []
    x_MV = rows_NV[known]
    k = min(k or min(12, max(2, round(math.sqrt(len(known) / 2)))), len(known))
    centres_KV = _begin(x_MV, k, seed)
    of_M = np.full(len(known), -1)
    for _ in range(_ROUNDS):
        now_M = np.argmax(np.round(x_MV @ centres_KV.T, 9), axis=1)  # rounded: no last bit decides
        if (now_M == of_M).all():
            break
        of_M = now_M
        for j in range(k):
            if (of_M == j).any():
                mean_V = x_MV[of_M == j].mean(0)
                centres_KV[j] = mean_V / max(float(np.linalg.norm(mean_V)), 1e-12)
    found = [Cluster(tuple(known[i] for i in np.flatnonzero(of_M == j)), _name(x_MV, of_M == j, names)) for j in range(k)]
    return sorted((c for c in found if c.members), key=lambda c: (-len(c.members), c.members))


def _begin(x_MV: np.ndarray, k: int, seed: int) -> np.ndarray:
    first = min(range(len(x_MV)), key=lambda i: stable_hash("clusters", seed, i))
    chosen = [first]
    nearest_M = np.round(x_MV @ x_MV[first], 9)
    while len(chosen) < k:
        chosen.append(int(np.argmin(nearest_M)))
        nearest_M = np.maximum(nearest_M, np.round(x_MV @ x_MV[chosen[-1]], 9))
    return x_MV[chosen].copy()


def _name(x_MV: np.ndarray, inside_M: np.ndarray, names: Sequence[str]) -> str:
    """The three words that are most more frequent inside than outside."""
    if not inside_M.any():
        return ""
    outside_V = x_MV[~inside_M].mean(0) if (~inside_M).any() else np.zeros(x_MV.shape[1])
    apart_V = np.round(x_MV[inside_M].mean(0) - outside_V, 9)
    best = sorted(range(len(names)), key=lambda j: (-apart_V[j], names[j]))[:3]
    return ", ".join(names[j] for j in best if apart_V[j] > 0)
