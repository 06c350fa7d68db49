"""How far answers to one prompt are from each other, by their words. Pure functions; built so that noise does not count for variety."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from keel.data.text import words

Words = frozenset[str]


def known_words(prompts: Iterable[str], answers: Iterable[str]) -> Words:
    """Words of the prompts, and those that two or more of the answers use. What one answer alone says may be noise."""
    used = Counter(word for text in answers for word in set(words(text)))
    return frozenset(word for text in prompts for word in words(text)) | {word for word, n in used.items() if n > 1}


def overlap(a: Words, b: Words) -> float:
    """Overlap coefficient |a & b| / min(|a|, |b|), in [0, 1]; 1 where one is empty, and where one holds the other: whatever is added to a
    copy of an answer makes it no other answer."""
    return len(a & b) / min(len(a), len(b)) if a and b else 1.0


def differences(answers: Sequence[str], known: Words) -> list[float]:
    """For each answer one minus its overlap with another, the mean over the others, in [0, 1]; words that are not ``known`` do not count.
    0 with fewer than two answers."""
    said = [known.intersection(words(text)) for text in answers]
    others = len(said) - 1
    return [sum(1.0 - overlap(a, b) for j, b in enumerate(said) if j != i) / others if others > 0 else 0.0 for i, a in enumerate(said)]
