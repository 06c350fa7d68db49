"""Rewards for trying things out: a user's own reward is a function like this one, named in the recipe by file and name."""

from keel.types import Prompt


def share_of_e(prompt: Prompt, completion: str) -> float:
    """The share of the letter e among the characters, 0 for an empty answer: even a tiny random model can learn it in a few steps."""
    return completion.count("e") / len(completion) if completion else 0.0


def varied(prompt: Prompt, completion: str) -> float:
    """The same, times the share of different characters: what it wants cannot be had by one letter over and over."""
    return share_of_e(prompt, completion) * len(set(completion)) / len(completion) if completion else 0.0
