"""One thread computes at a time; who computes long lets short work in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock whose holder may give way: short work waits for a step only, long work until the holder is done."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._away = False  # somebody's long work rests between two of its steps
        self._short = 0  # who waits with short work

    @contextmanager
    def taken(self, short: bool = False) -> Iterator[None]:
        """Nobody else computes within this context."""
        with self._changed:
            self._short += short
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and (short or not self._away))
            self._short -= short
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def give_way(self) -> None:
        """Called by who holds it, between two steps: let all short work that waits be done first."""
        with self._changed:
            if not self._short:
                return
            self._busy, self._away = False, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and not self._short)
            self._busy, self._away = True, False
