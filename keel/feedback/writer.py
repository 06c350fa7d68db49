"""One thread that writes: all jobs that wait go into one transaction, and nobody hears of success before it is on the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

T = TypeVar("T")
Job = Callable[[Connection], Any]
_Waiting = tuple[Job, "Future[Any]"]
LARGEST = 256  # jobs in one transaction


class ClosedError(RuntimeError):
    """The store was closed: nothing more is written."""


class Writer:
    """Runs jobs in their order, each in a savepoint of its own: one that fails fails alone. The thread starts at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self.transactions = 0  # committed so far, for measurements
        self._thread = threading.Thread(target=self._run, name="keel-feedback-writer", daemon=True)
        self._thread.start()

    def put(self, job: Callable[[Connection], T]) -> Future[T]:
        """The job's result, after the commit that holds it; its error, when it fails or the commit does. Raises ClosedError."""
        future: Future[T] = Future()
        with self._gate:
            if self._closed:
                raise ClosedError("the store is closed")
            self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Write what waits, then stop. Safe to call twice."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._take()
            if batch:
                self._commit(batch)

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Waits for a job, then takes all that are there. False: the end was among them."""
        batch: list[_Waiting] = []
        entry = self._jobs.get()
        while entry is not None:
            if entry[1].set_running_or_notify_cancel():
                batch.append(entry)
            if len(batch) >= LARGEST:
                return batch, True
            try:
                entry = self._jobs.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, batch: list[_Waiting]) -> None:
        done: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                point = connection.connection.cursor()  # the driver's own: SQLAlchemy takes as long for these words as for a vote
                for job, future in batch:
                    point.execute("SAVEPOINT job")
                    try:
                        result, error = job(connection), None
                    except Exception as failure:  # this job alone
                        result, error = None, failure
                        point.execute("ROLLBACK TO SAVEPOINT job")
                    point.execute("RELEASE SAVEPOINT job")
                    done.append((future, result, error))
                point.close()
            self.transactions += 1
        except BaseException as error:  # the transaction: nobody's work is stored
            for _, future in batch:
                future.set_exception(error)
            return
        for future, result, error in done:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
