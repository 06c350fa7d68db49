"""Answers worth comparing: no empty ones, no two alike, the most different of them, in pairs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from keel.core.hashing import permutation, stable_hash
from keel.data.text import ngrams, words
from keel.feedback.config import PreferencesConfig
from keel.feedback.questions import answer_words
from keel.types import Candidate, Message


def make_candidate(prompt_id: str, text: str, origin: Mapping[str, Any]) -> Candidate:
    """A candidate whose id follows from prompt and text (stripped): the same answer sampled twice has the same id."""
    text = text.strip()
    return Candidate(f"{stable_hash('candidate', prompt_id, text):016x}", text, dict(origin))


def make_turns(prompt_id: str, turns: Sequence[Message], origin: Mapping[str, Any]) -> Candidate:
    """The same of an answer of several turns, or one that calls tools: its text is what the assistant says in all of them."""
    if len(turns) == 1 and not turns[0].extra:
        return make_candidate(prompt_id, turns[0].text, origin)
    text = "\n\n".join(m.text.strip() for m in turns if m.role == "assistant" and m.text.strip())
    return Candidate(f"{stable_hash('candidate', prompt_id, answer_words(turns)):016x}", text, dict(origin), tuple(turns))


def samples_by_temperature(temperatures: Sequence[float], samples: int) -> tuple[tuple[float, int], ...]:
    """(temperature, number of samples) for each temperature; the first ones take the remainder."""
    whole, rest = divmod(samples, len(temperatures))
    return tuple((t, whole + (i < rest)) for i, t in enumerate(temperatures))


def similarity(left: str, right: str) -> float:
    """Jaccard overlap of words and word pairs, in [0, 1]; Han characters are words. Case and punctuation do not count."""
    a, b = _grams(left), _grams(right)
    return len(a & b) / len(a | b) if a or b else 1.0


def deduplicate(candidates: Sequence[Candidate], threshold: float = 0.9) -> tuple[Candidate, ...]:
    """Without empty answers (no word in them) and without those more similar than ``threshold`` to an earlier one."""
    kept: list[Candidate] = []
    for candidate in candidates:
        known = (other.text == candidate.text or similarity(other.text, candidate.text) > threshold for other in kept)
        if words(candidate.text) and not any(known):
            kept.append(candidate)
    return tuple(kept)


def most_diverse(candidates: Sequence[Candidate], k: int) -> tuple[Candidate, ...]:
    """``k`` candidates, in their original order: the two least alike, then always the one whose nearest chosen one is farthest."""
    if len(candidates) <= k:
        return tuple(candidates)
    assert k >= 2, "one answer cannot be diverse"
    distance = [[1.0 - similarity(a.text, b.text) for b in candidates] for a in candidates]
    pairs = itertools.combinations(range(len(candidates)), 2)
    chosen = list(max(pairs, key=lambda ij: distance[ij[0]][ij[1]]))  # the first of several equals: deterministic
    while len(chosen) < k:
        rest = [i for i in range(len(candidates)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance[i][j] for j in chosen)))
    return tuple(candidates[i] for i in sorted(chosen))


def select(candidates: Sequence[Candidate], config: PreferencesConfig) -> tuple[Candidate, ...]:
    """The candidates of one prompt that are worth comparing. Fewer than two mean: nothing to compare."""
    return most_diverse(deduplicate(candidates, config.similarity), config.keep)


def choose_pairs(candidates: Sequence[Candidate], limit: int, *parts: str | int) -> tuple[tuple[Candidate, Candidate], ...]:
    """At most ``limit`` pairs, in an order decided by ``parts`` (seed, prompt id).

    They go round a circle of all candidates first, so that from len(candidates) pairs on each is compared at least twice, and from half
    of that on at least once.
    """
    n = len(candidates)
    order = [candidates[i] for i in permutation(n, "pairs", *parts)]
    steps = range(1, n // 2 + 1)  # neighbours on the circle, then next but one ...: each pair exactly once
    circles = (
        (i, (i + step) % n)
        for step in steps
        for i in (*range(0, n, 2), *range(1, n, 2))  # every second neighbourhood first: all candidates early
        if not (2 * step == n and i >= step)
    )
    return tuple((order[i], order[j]) for i, j in itertools.islice(circles, limit)) if n > 1 else ()


def _grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return set(ngrams(found, 1)) | set(ngrams(found, 2))
