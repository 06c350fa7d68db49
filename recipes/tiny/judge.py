"""A judge for the recipes of tiny models: of two answers the one with the greater share of the letter e is better."""

from __future__ import annotations

from keel.types import Prompt


def more_e(prompt: Prompt, first: str, second: str) -> float:
    """P(first is better), after Bradley and Terry: e in a tenth more of the characters makes odds of e to 1."""
    from math import exp

    lead = _share(first) - _share(second)
    return 1.0 / (1.0 + exp(-10.0 * lead))


def _share(text: str) -> float:
    return text.count("e") / max(1, len(text))
