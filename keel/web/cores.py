"""One core for the server's threads. They share one interpreter, whose lock goes back and forth between cores otherwise: each statement of
a vote lets go of it and waits to have it again (docs/annotate.md has the numbers)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """All threads of this process, and those that they start, on one of the cores that it may use; afterwards on all of them again.

    Changes nothing where the system does not let a process choose.
    """
    before = allowed()
    if len(before) < 2:
        yield
        return
    _move([sorted(before)[os.getpid() % len(before)]])
    try:
        yield
    finally:
        _move(before)


def allowed() -> list[int]:
    """The cores that the calling thread may use; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def use(cores: list[int]) -> None:
    """Let the calling thread use these cores."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.sched_setaffinity(0, cores)


def _move(cores: list[int]) -> None:
    for thread in threading.enumerate():
        with contextlib.suppress(OSError):  # ended meanwhile
            if thread.native_id is not None:
                os.sched_setaffinity(thread.native_id, cores)
