"""What a good letter is in `recipes/self_improve.yaml`: different words that matter, and nothing else."""

from __future__ import annotations

from keel.types import Prompt

MATTER = frozenset("happy help thank send answer money order parcel".split())


def useful(prompt: Prompt, completion: str) -> float:
    """A word that matters counts 1 the first time; every other word, and every repetition, costs a half. The best letter has 8."""
    words = completion.lower().split()
    different = len(MATTER.intersection(words))
    return different - 0.5 * (len(words) - different)
