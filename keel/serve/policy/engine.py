"""What answers rows: the protocol of it, and the one that is a process of ours with a model in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from keel.core.errors import ModelError
from keel.serve.policy import frames
from keel.serve.policy.config import ProbeConfig
from keel.serve.policy.frames import About, Piece, Row

log = logging.getLogger("keel")
LONGEST_PAUSE_S = 30.0
_WORKER = "keel.verbs.serve_policy.worker"


class GoneError(Exception):
    """The engine ended before the answer did. Another one may go on."""


class RefusedError(Exception):
    """The engine will never answer this request: it is too long, or cannot be rendered. The message is for whoever asked."""


class BusyError(RefusedError):
    """Too many tokens wait there already. Later there will be room."""


class Engine(Protocol):
    """One arm's model."""

    @property
    def about(self) -> About: ...

    @property
    def alive(self) -> bool:
        """Can it be asked now?"""
        ...

    @property
    def restarts(self) -> int: ...

    async def start(self) -> None:
        """Until it can be asked. Raises UserError where it never will."""
        ...

    def ask(self, row: Row) -> AsyncIterator[Piece]:
        """The answer, piece by piece; the last one has an ``end``. Left early, the row is cancelled. Raises GoneError, RefusedError,
        BusyError."""
        ...

    async def stop(self) -> None: ...


class ProcessEngine:
    """A worker process. One that ends is started again; one that is asked and stays silent is ended first."""

    def __init__(self, settings: Mapping[str, Any], probe: ProbeConfig, command: Sequence[str] = ()) -> None:
        """``settings``: what the worker is told at its start. ``command``: another worker, for tests; it gets the number of its socket."""
        self._settings, self._probe = dict(settings), probe
        self._command = list(command) or [sys.executable, "-m", _WORKER]
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._about: About | None = None
        self._answers: dict[str, asyncio.Queue[Piece | Exception]] = {}
        self._heard = time.monotonic()
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._stopping = False
        self.restarts = 0

    @property
    def about(self) -> About:
        assert self._about is not None, "start comes first"
        return self._about

    @property
    def alive(self) -> bool:
        return self._up.is_set()

    @property
    def pid(self) -> int:
        """The worker's process."""
        assert self._process is not None, "start comes first"
        return self._process.pid

    async def start(self) -> None:
        """Raises ModelError with what the worker said."""
        reader = await self._launch()
        self._keeper = asyncio.create_task(self._keep(reader))

    async def _launch(self) -> asyncio.StreamReader:
        """A new process, loaded and ready."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, str(theirs.fileno()), pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, env=environment()
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=frames.LARGEST)
        self._writer.write(frames.line(self._settings))
        try:
            async with asyncio.timeout(self._probe.load_s):
                said = await reader.readline()
        except TimeoutError:
            model, pid = self._settings.get("model", "?"), self.pid
            await self._end()
            raise ModelError(
                f"the worker of {model} (process {pid}) had not loaded it after {self._probe.load_s:g} s, and was ended",
                "see what it wrote on standard error; probe.load_s=SECONDS gives it longer",
            ) from None
        first: dict[str, Any] = json.loads(said) if said else {"failed": "the worker ended while it was starting"}
        if "ready" not in first:
            await self._end()
            raise ModelError(first["failed"], first.get("hint", ""))
        self._about, self._heard = About(**first["ready"]), time.monotonic()
        self._up.set()
        return reader

    async def ask(self, row: Row) -> AsyncIterator[Piece]:
        if not self.alive or self._writer is None:
            raise GoneError
        queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        if not self._answers:
            self._heard = time.monotonic()  # it had nothing to say before
        self._answers[row.name] = queue
        ended = False
        try:
            self._write({"ask": frames.plain(row)})
            while not ended:
                piece = await queue.get()
                ended = isinstance(piece, Exception) or bool(piece.end)
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self._answers.pop(row.name, None)
            if not ended:
                self._write({"cancel": row.name})

    def _write(self, frame: Mapping[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames.line(frame))

    async def _keep(self, reader: asyncio.StreamReader) -> None:
        """Hear the worker out; start it again when it is gone."""
        pause = self._probe.restart_s
        while True:
            began = time.monotonic()
            await self._hear(reader)
            await self._end()
            while not self._stopping:
                log.warning("the worker of %s ended; it starts again", self._settings.get("model", "?"))
                self.restarts += 1
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * max(pause, 0.1)) if time.monotonic() - began < 10 * pause else self._probe.restart_s
                try:
                    reader = await self._launch()
                    break
                except (ModelError, OSError) as error:
                    log.warning("the worker does not start: %s", error)
            if self._stopping:
                return

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """Until the worker is gone, or has to be."""
        reading = asyncio.create_task(self._read(reader))
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=min(1.0, self._probe.stuck_s / 4))
                if self._answers and time.monotonic() - self._heard > self._probe.stuck_s:
                    log.warning("the worker was silent for %g s while it was asked; it is ended", self._probe.stuck_s)
                    return
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while said := await reader.readline():
                self._heard = time.monotonic()
                frame = json.loads(said)
                if "piece" in frame:
                    piece = frames.piece_from(frame["piece"])
                    self._answer(piece.name, piece)
                elif "refused" in frame:
                    message = frame["message"] + (f" ({frame['hint']})" if frame.get("hint") else "")
                    self._answer(frame["refused"], BusyError(message) if frame.get("busy") else RefusedError(message))

    def _answer(self, name: str, said: Piece | Exception) -> None:
        if name in self._answers:
            self._answers[name].put_nowait(said)

    async def _end(self) -> None:
        """The process is gone after this; whoever waits for it is told."""
        self._up.clear()
        if self._writer is not None:
            self._writer.close()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        for queue in self._answers.values():
            queue.put_nowait(GoneError())

    async def stop(self) -> None:
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end()


def environment() -> dict[str, str]:
    """Ours, with the folder that this package was found in: a worker is the same Keel."""
    package = str(__file__).rpartition("/keel/serve/")[0]
    paths = [p for p in (package, os.environ.get("PYTHONPATH", "")) if p]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
