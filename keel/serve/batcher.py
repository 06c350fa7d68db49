"""Requests of many clients -> few passes of one model: a bounded queue, one worker thread, nothing computed for who has gone."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

log = logging.getLogger("keel")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_LOOK_S = 0.2  # between two looks whether whoever asked is still there


class FullError(Exception):
    """There is no room: ask again later."""


class LateError(Exception):
    """The answer did not come in time."""


class StoppedError(Exception):
    """The server is going down."""


@dataclass(slots=True)
class _Job(Generic[Asked, Answer]):
    items: Sequence[Asked]
    future: Future[list[Answer]] = field(default_factory=Future)


class Batcher(Generic[Asked, Answer]):
    """``score`` is called by one thread alone, with at most ``batch`` items of the jobs that wait. Requests larger than that are cut."""

    def __init__(self, score: Callable[[Sequence[Asked]], Sequence[Answer]], batch: int, waiting: int) -> None:
        self._score, self._batch, self._limit = score, batch, waiting
        self._jobs: deque[_Job[Asked, Answer]] = deque()
        self._waiting = 0
        self._stopped = False
        self._change = threading.Condition()
        self.scored = self.refused = self.abandoned = self.passes = 0
        self._thread = threading.Thread(target=self._work, name="keel-scores", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that wait or are being scored."""
        return self._waiting

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopped

    def ask(self, items: Sequence[Asked], timeout_s: float, gone: Callable[[], bool] = lambda: False) -> list[Answer]:
        """The answers, in order. Raises FullError at once when there is no room, LateError when they do not come in time, or when whoever
        asked is ``gone`` (they are then not computed, if not begun), StoppedError when the server goes down, and what ``score`` raised."""
        if not items:
            return []
        job: _Job[Asked, Answer] = _Job(items)
        with self._change:
            if self._stopped:
                raise StoppedError
            if self._waiting + len(items) > self._limit:
                self.refused += 1
                raise FullError
            self._waiting += len(items)
            self._jobs.append(job)
            self._change.notify()
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and not gone():
            wait([job.future], min(left, _LOOK_S))
            if job.future.done():
                return job.future.result()
        job.future.cancel()
        raise LateError

    def stop(self) -> None:
        """End the thread; who waits gets StoppedError."""
        with self._change:
            self._stopped = True
            jobs, self._jobs = list(self._jobs), deque()
            self._change.notify()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(StoppedError())
        self._thread.join(timeout=60)

    def _take(self) -> list[_Job[Asked, Answer]]:
        """Whole jobs for one pass, at least one; blocks until there is any. Empty when stopped."""
        with self._change:
            while True:
                while not self._jobs and not self._stopped:
                    self._change.wait()
                taken: list[_Job[Asked, Answer]] = []
                size = 0
                while self._jobs and (not taken or size + len(self._jobs[0].items) <= self._batch):
                    job = self._jobs.popleft()
                    if job.future.set_running_or_notify_cancel():
                        taken.append(job)
                        size += len(job.items)
                    else:  # whoever asked has given up
                        self.abandoned += 1
                        self._waiting -= len(job.items)
                if taken or self._stopped:
                    return taken

    def _work(self) -> None:
        while jobs := self._take():
            items = [item for job in jobs for item in job.items]
            failure: Exception | None = None
            answers: list[Answer] = []
            try:
                answers = [a for i in range(0, len(items), self._batch) for a in self._score(items[i : i + self._batch])]
                assert len(answers) == len(items), f"{len(answers)} answers to {len(items)} items"
            except Exception as error:  # one bad batch must not end the server; whoever asked is told
                log.exception("scoring failed")
                failure = error
            with self._change:  # before anyone is answered: who then asks how much is waiting is told the truth
                self._waiting -= len(items)
                self.passes += 1
                self.scored += 0 if failure else len(items)
            start = 0
            for job in jobs:
                if failure is not None:
                    job.future.set_exception(failure)
                else:
                    job.future.set_result(answers[start : start + len(job.items)])
                start += len(job.items)
