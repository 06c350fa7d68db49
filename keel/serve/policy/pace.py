"""How fast an answer's tokens came. Waiting for a place is load, and a slow reader is the reader: neither says anything of the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from keel.serve.policy.frames import Piece


class Pace:
    """The time between the tokens of one answer, as they were drawn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = 0.0
        self._begun = False
        self.seconds, self.tokens = 0.0, 0  # since the first piece with tokens, and how many came after it

    def add(self, piece: Piece) -> None:
        """Engines that tell no ids are counted by their pieces of text."""
        drawn = len(piece.ids) or bool(piece.text)
        if not drawn:
            return
        if not self._begun:
            self._begun, self._first = True, self._clock()
            return
        self.tokens += drawn
        self.seconds = self._clock() - self._first


def per_token_s(paces: Sequence[Pace]) -> float | None:
    """Seconds between two tokens, over all answers of a request; None where none has two."""
    tokens = sum(pace.tokens for pace in paces)
    return sum(pace.seconds for pace in paces) / tokens if tokens else None
