"""Replies that repeat the request instead of answering it: what small models do when they are asked to revise. Rules would score such a
reply as any text, and it would be trained on as the better answer."""

from __future__ import annotations

from collections.abc import Sequence

from keel.data.text import words

_RUN = 6  # words (Han characters) of the request in a row are an echo
_SHORT, _SHARE = 3, 1 / 3  # or shorter runs, where they are this share of the reply


def echo(reply: str, request: str, material: Sequence[str] = ()) -> bool:
    """Does ``reply`` repeat ``request``, the words around the texts? What stands in ``material`` (question, answer) may be said again."""
    said = words(reply)
    known = {run for text in material for run in _runs(words(text), _SHORT)}
    asked = _runs(words(request), _SHORT) - known
    repeated = [False] * len(said)
    longest = run = 0
    for i in range(len(said) - _SHORT + 1):
        if tuple(said[i : i + _SHORT]) in asked:
            repeated[i : i + _SHORT] = [True] * _SHORT
            run += 1
            longest = max(longest, run + _SHORT - 1)
        else:
            run = 0
    return longest >= _RUN or sum(repeated) > _SHARE * len(said)


def _runs(said: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}
