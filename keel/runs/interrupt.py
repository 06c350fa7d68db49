"""Ctrl-C and SIGTERM end a run between two steps, after a checkpoint; a second Ctrl-C ends it at once."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from keel.core.errors import RankError, RankLostError

log = logging.getLogger("keel")


class Interrupts:
    """Inside the ``with`` block the first SIGINT or SIGTERM only sets ``requested``, which loops look at between steps.

    The second one raises KeyboardInterrupt where the program is. Handlers are put back at the end. Signals arrive in the main thread
    only; in another thread the block changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if self.requested and isinstance(error, RankLostError):  # what was told to stop does not go on by itself
            raise RankError(error.message, error.hint) from None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("%s: stopping after this step, once it is saved; again to stop at once", signal.Signals(number).name)
