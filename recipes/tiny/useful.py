"""What a good letter is in `recipes/self_improve.yaml`: it says many different things that matter, and it is not long."""

from __future__ import annotations

from keel.types import Prompt

MATTER = frozenset(["happy", "help", "thank", "send", "answer", "money", "order", "parcel"])
ENOUGH = 10  # words


def useful(prompt: Prompt, completion: str) -> float:
    """Each word that matters counts 1, once. From the eleventh word on every word costs a half: nobody reads it. At best 8."""
    words = completion.lower().split()
    return len(MATTER.intersection(words)) - 0.5 * max(0, len(words) - ENOUGH)
