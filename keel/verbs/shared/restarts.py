"""A run whose ranks are lost goes on by itself, as the same command again would."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from keel.core.errors import RankLostError
from keel.runs.checkpoints import latest_step

log = logging.getLogger("keel")


def gone_on(run: Callable[[], dict[str, Any]], path: Path, restarts: int) -> dict[str, Any]:
    """What ``run`` returns, which resumes the run in the directory ``path``. Where ranks are lost it is run again, at most ``restarts``
    times without a new checkpoint in between; then RankLostError."""
    at, times = -1, 0
    while True:
        try:
            return run()
        except RankLostError as error:
            step = latest_step(path)
            times = times + 1 if step == at else 1
            at = step
            if times > restarts:
                raise
            said = error.message
        gc.collect()  # models and their memory on a GPU: the new ones come before the old would go
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("%s. Going on from step %d (restart %d of %d without a new checkpoint)", said, at, times, restarts)
