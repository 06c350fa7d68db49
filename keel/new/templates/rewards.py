"""The reward that the recipe names: change it to what you want of an answer.

A larger number is better. It is called once for each answer; `prompt.meta` holds the other columns of the row.
"""

from keel.types import Prompt


def reward(prompt: Prompt, completion: str) -> float:
    """1 for an answer of 5 to 60 words (a Chinese character counts as one), less the further it is from that."""
    words = sum(1 if ch > "\u2e80" else 0 for ch in completion) + len([w for w in completion.split() if w[0] < "\u2e80"])
    if words == 0:
        return 0.0
    return min(1.0, words / 5) if words <= 60 else 60 / words
