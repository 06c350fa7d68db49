"""The runs of an ablation: those that are not known yet, one after the other or several at a time, each in a process of its own."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from keel.core.errors import RunError
from keel.tune.trial import Trainer, Trial

Row = Mapping[str, Any]


def rows(trainer: Trainer, trials: Sequence[Trial], steps: int, jobs: int) -> Iterator[Row]:
    """The row of each run as it ends: that of ``Trainer.advance`` with ``seconds`` and ``weights``, a digest of what was trained. Raises
    what a run raises; the others that go on then end first. RunError where a process of the pool was killed: the pool ends the others."""
    if jobs == 1:
        for trial in trials:
            yield one(trainer, trial, steps)
        return
    pool = ProcessPoolExecutor(min(jobs, max(1, len(trials))), multiprocessing.get_context("spawn"), _begin, (jobs,))
    with pool:
        waiting: set[Future[Row]] = {pool.submit(one, trainer, trial, steps) for trial in trials}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                good = [future for future in ended if future.exception() is None]
                yield from (future.result() for future in good)  # what is known is written, whatever became of the others
                for future in ended:
                    future.result()
        except BrokenProcessPool:
            raise RunError(
                "a process with a run ended by itself (killed? out of memory?)", "give fewer --jobs; the same command goes on with the rest"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one(trainer: Trainer, trial: Trial, steps: int) -> Row:
    """Run, or go on with, one."""
    began = time.monotonic()
    row = trainer.advance(trial, steps, steps)
    return {**row, "seconds": round(time.monotonic() - began, 1), "weights": weights(trainer.folder / trial.name)}


def weights(run: Path) -> str:
    """A digest of the weights that a run left; "" where it left none."""
    files = sorted((run / "final").rglob("*.safetensors"))
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(run)}\n".encode())
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()[:32] if files else ""


def _begin(jobs: int) -> None:
    """In a process of the pool: a share of the processors, and an end when the parent ends, however it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    import torch  # takes seconds, in which the parent may end

    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
