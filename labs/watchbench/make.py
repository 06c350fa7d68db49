"""Record all runs, one after the other, each once: a bench that was stopped goes on where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from labs.watchbench.plan import Run
from labs.watchbench.record import guard, record
from labs.watchbench.store import append, done
from labs.watchbench.world import World

log = logging.getLogger("keel")


def make(runs: Sequence[Run], folder: Path, act: bool = False, most: int = 0) -> int:
    """Record those that ``folder`` does not have yet, at most so many (0: all). Returns how many."""
    there = done(folder)
    todo = [run for run in runs if run.name not in there][: most or None]
    world, began = World(), time.perf_counter()
    for i, run in enumerate(todo, 1):
        found = record(run, world, guard(act))
        append(folder, run.family, asdict(found))
        log.info(
            "%d of %d: %s in %.1f s of this process; %.0f s so far", i, len(todo), run.name, found.seconds, time.perf_counter() - began
        )
    return len(todo)
