"""A stage that makes something without training: once, in a run directory, found again when the pipeline goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keel.core.config import Section
from keel.runs.directory import RunDir, read_summary
from keel.runs.memory import peak_mb


def make_once(
    verb: str, recipe: Section, seed: int, path: Path, parent: str, read: Mapping[str, str], make: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Call ``make``, which fills folders under ``path``, unless it was finished before; returns its summary with seconds and memory.

    ``read``: fingerprints of what it reads. Raises RunError for a directory of another recipe or of other files.
    """
    started = time.perf_counter()
    run = RunDir.open(path, recipe, verb, seed, parent=parent or None, data_fingerprints=read, argv=sys.argv)
    try:
        if (done := read_summary(path)) is not None:
            return done
        summary = {"run_dir": str(path), "verb": verb, **make()}
        summary |= {"wall_s": round(time.perf_counter() - started, 2), "peak_mb": round(peak_mb(), 1)}
        run.finish(summary)
        return summary
    finally:
        run.close()
