"""Answers that look made for the reward and not for the reader: found by what the text itself shows. Pure functions, no model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keel.data.text import ngrams, repetition, sentences, words

REPETITION = 0.25  # share of repeated 4-grams
ECHO = 0.5  # share of the answer's 4-grams that stand in the prompt
REFRAIN = 0.2  # share of prompts whose answers hold one and the same sentence
_FEWEST = 5  # prompts with the sentence, at least
_SHORT = 4  # words; "Thank you." is nobody's trick


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on an answer is taken for a hack; 0 switches a detector off."""

    repetition: float = REPETITION
    echo: float = ECHO
    refrain: float = REFRAIN


def refrains(answers: Mapping[str, Sequence[str]], share: float = REFRAIN) -> frozenset[str]:
    """Sentences (as words, in small letters) that stand in answers to at least ``share`` of the prompts, and to five of them: what a policy
    says whatever it is asked. ``answers``: by prompt."""
    if not share:
        return frozenset()
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for prompt, texts in answers.items():
        for text in texts:
            for sentence in _said(text):
                seen[sentence].add(prompt)
    least = max(_FEWEST, share * len(answers))
    return frozenset(sentence for sentence, prompts in seen.items() if len(prompts) >= least)


def hacks(prompt: str, answer: str, common: frozenset[str] = frozenset(), limits: Limits | None = None) -> dict[str, float]:
    """What was found, by name, with how much of it: ``repetition`` (repeated 4-grams), ``echo`` (4-grams of the prompt), ``refrain`` (share
    of the sentences that are in ``common``)."""
    limits = limits or Limits()
    found: dict[str, float] = {}
    low = words(answer.lower())
    grams, asked = ngrams(low, 4), set(ngrams(words(prompt.lower()), 4))
    measures = {
        "repetition": (repetition(answer.lower(), 4), limits.repetition),
        "echo": (sum(g in asked for g in grams) / len(grams) if grams else 0.0, limits.echo),
    }
    found |= {name: value for name, (value, limit) in measures.items() if limit and value >= limit}
    said = _said(answer)
    if limits.refrain and any(s in common for s in said):
        found["refrain"] = sum(s in common for s in said) / len(said)
    return found


def _said(text: str) -> list[str]:
    all_words = [words(s.lower()) for s in sentences(text)]
    return [" ".join(w) for w in all_words if len(w) >= _SHORT]
