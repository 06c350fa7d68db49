"""A thread for the database: all jobs that wait go into one transaction, and nobody hears of success before it is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from keel.feedback.sql import plain

T = TypeVar("T")
Job = Callable[[Connection], Any]
_Reply = Future[Any] | asyncio.Future[Any]
_Waiting = tuple[Job, _Reply]
_Result = tuple[Any, BaseException | None]
LARGEST = 256  # jobs in one transaction


class ClosedError(RuntimeError):
    """The store was closed: nothing more is written."""


class Worker:
    """Runs jobs in their order. One that fails fails alone, so a job may run twice: it must do nothing but work on its connection.

    A store has one that writes, and one that reads what many ask for at once. The thread starts at once.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self.transactions = 0  # committed so far, for measurements
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[Connection], T]) -> Future[T]:
        """The job's result, after the commit that holds it; its error, when it fails or the commit does. Raises ClosedError."""
        return self._put(job, Future())

    def put_async(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """`put` for the running event loop, which is woken once a transaction and not once a job."""
        return self._put(job, asyncio.get_running_loop().create_future())

    def close(self) -> None:
        """Write what waits, then stop. Safe to call twice."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _put(self, job: Job, reply: Any) -> Any:
        with self._gate:
            if self._closed:
                raise ClosedError("the store is closed")
            self._jobs.put((job, reply))
        return reply

    def _run(self) -> None:
        going, connection = True, None
        while going:
            batch, going = self._take()
            if batch:
                connection = self._commit(batch, connection)
        if connection is not None:
            connection.close()

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Waits for a job, then takes all that are there. False: the end was among them."""
        batch: list[_Waiting] = []
        entry = self._jobs.get()
        while entry is not None:
            if isinstance(entry[1], asyncio.Future) or entry[1].set_running_or_notify_cancel():
                batch.append(entry)
            if len(batch) >= LARGEST:
                return batch, True
            try:
                entry = self._jobs.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _commit(self, batch: list[_Waiting], connection: Connection | None) -> Connection | None:
        """The connection for the next batch: kept while all goes well, since to take it from the pool costs as much as a vote."""
        jobs = [job for job, _ in batch]
        try:
            connection = connection or self._engine.connect()
            results = _together(connection, jobs) or _apart(connection, jobs)
            self.transactions += 1
        except BaseException as error:  # the transaction: nobody's work is stored
            results = [(None, error)] * len(batch)
            if connection is not None:
                _give_up(connection)
                connection = None
        _answer((reply, *result) for (_, reply), result in zip(batch, results, strict=True))
        return connection


def _together(connection: Connection, jobs: list[Job]) -> list[_Result] | None:
    """All jobs in one transaction without borders between them. None, and nothing is stored, when one of several fails."""
    transaction = connection.begin()
    try:
        results: list[_Result] = [(job(connection), None) for job in jobs]
    except Exception as failure:
        transaction.rollback()
        return [(None, failure)] if len(jobs) == 1 else None
    transaction.commit()
    return results


def _apart(connection: Connection, jobs: list[Job]) -> list[_Result]:
    """The same with a savepoint each: what fails is undone alone. Costs two statements a job, so it is for batches in which one failed."""
    results: list[_Result] = []
    with connection.begin():
        for job in jobs:
            plain(connection, "SAVEPOINT job")
            try:
                results.append((job(connection), None))
            except Exception as failure:
                results.append((None, failure))
                plain(connection, "ROLLBACK TO SAVEPOINT job")
            plain(connection, "RELEASE SAVEPOINT job")
    return results


def _give_up(connection: Connection) -> None:
    """Let go of a connection whose transaction failed; its pool makes a new one."""
    with contextlib.suppress(Exception):
        connection.invalidate()
    with contextlib.suppress(Exception):
        connection.close()


def _answer(settled: Iterable[tuple[_Reply, Any, BaseException | None]]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = defaultdict(list)
    for reply, result, error in settled:
        if isinstance(reply, asyncio.Future):
            loops[reply.get_loop()].append((reply, result, error))
        else:
            _set(reply, result, error)
    for loop, here in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_set_all, here)


def _set_all(settled: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for reply, result, error in settled:
        if not reply.done():  # given up by whoever waited
            _set(reply, result, error)


def _set(reply: _Reply, result: Any, error: BaseException | None) -> None:
    if error is None:
        reply.set_result(result)
    else:
        reply.set_exception(error)
