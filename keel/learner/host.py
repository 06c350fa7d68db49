"""The processes of a learner, as the driver sees them: started on this machine, asked by commands, ended together. Nothing is open between
them while they wait, so the driver may take as long as it likes between two commands."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, ClassVar

import torch

from keel.core import errors
from keel.core.errors import ConfigError, RankError, UserError
from keel.learner.config import ClusterConfig
from keel.learner.wire import packed, unpacked

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_GRACE = 10.0  # seconds in which all ranks find what one of them found wrong
_POLL = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What a rank is told first."""

    rank: int
    world: int
    store: str  # a file in which they find each other
    device: str  # cpu or cuda
    full: bool  # weights are shared out
    timeout_s: float
    threads: int
    deterministic: bool


class Host:
    """``cluster.ranks`` processes. A failure of one of them ends all: whoever waits for a dead one would wait for long."""

    PROGRAM: ClassVar[tuple[str, ...]] = ("-m", "keel.learner.rank")

    def __init__(self, cluster: ClusterConfig, device: torch.device) -> None:
        """Start them; they load what they need while the driver goes on. Raises ConfigError where there are fewer GPUs than ranks."""
        _check(cluster, device)
        self.cluster, self.device = cluster, device
        self._folder = Path(tempfile.mkdtemp(prefix="keel-ranks-"))
        self._why = RankError("the ranks were ended before")
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        life, hold = os.pipe()  # the ranks read ``life``: it ends when the driver does, however that ends
        self._end = weakref.finalize(self, _end, os.getpid(), self._processes, self._connections, hold, self._folder)
        try:
            for rank in range(cluster.ranks):
                self._start(rank, life)
        finally:
            os.close(life)

    @property
    def pids(self) -> list[int]:
        """Of the ranks, in order."""
        return [process.pid for process in self._processes]

    def _start(self, rank: int, life: int) -> None:
        ours, theirs = Pipe()
        # GPUs are told apart by number, CPU cores are shared out
        threads = torch.get_num_threads() if self.device.type == "cuda" else max(1, torch.get_num_threads() // self.cluster.ranks)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [env.get("PYTHONPATH")])])
        command = [sys.executable, *self.PROGRAM, str(theirs.fileno()), str(life)]
        self._processes.append(subprocess.Popen(command, pass_fds=(theirs.fileno(), life), env=env, stdin=subprocess.DEVNULL))
        theirs.close()
        self._connections.append(ours)
        full, deterministic = self.cluster.shard == "full", torch.are_deterministic_algorithms_enabled()
        store = str(self._folder / "store")
        told = Setup(rank, self.cluster.ranks, store, self.device.type, full, self.cluster.timeout_s, threads, deterministic)
        with contextlib.suppress(OSError):  # one that is dead already is told of by the first call
            ours.send_bytes(packed(told))

    # --------------------------------------------------------------------------------------------------------------- commands

    def call(self, command: str, *args: Any) -> Any:
        """Let all ranks do ``command``; returns what rank 0 says. Raises the UserError that all of them raise, and RankError where one
        failed by itself or died."""
        items = self.stream(command, *args)
        while True:
            try:
                next(items)
            except StopIteration as end:
                return end.value

    def stream(self, command: str, *args: Any) -> Iterator[Any]:
        """The same, with what rank 0 sends while it works, piece by piece. Taken to its end."""
        if not self._end.alive:
            raise self._why
        data = packed((command, args))
        for rank, connection in enumerate(self._connections):
            try:
                connection.send_bytes(data)
            except OSError:
                self._died(rank)
        return (yield from self._answers())

    def _answers(self) -> Iterator[Any]:
        waiting = dict(enumerate(self._connections))
        raised: dict[int, UserError] = {}
        said: Any = None
        since = 0.0
        while waiting:
            for connection in wait(list(waiting.values()), _POLL):
                rank = next(r for r, c in waiting.items() if c is connection)
                try:
                    kind, value = unpacked(waiting[rank].recv_bytes())
                except (EOFError, OSError):
                    self._died(rank)
                if kind == "item":
                    yield value
                    continue
                del waiting[rank]
                if kind == "done":
                    said = value if rank == 0 else said
                elif kind == "user":
                    raised[rank], since = _user_error(*value), since or time.monotonic()
                else:
                    self._failed(f"rank {rank} of {len(self._connections)} failed:\n{value}")
            if raised and waiting and time.monotonic() - since > _GRACE:
                break
        if raised:
            first = raised[min(raised)]
            if len(raised) < len(self._connections):  # the others wait for it
                self._failed(f"rank {min(raised)} of {len(self._connections)} failed: {first.message}", first.hint)
            raise first
        return said

    def _died(self, rank: int) -> None:
        process = self._processes[rank]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        hint = "start the same command again; it goes on from the last checkpoint"
        if code == -9:
            hint += ". Signal 9 is also what the system sends when memory is full"
        self._failed(f"rank {rank} of {len(self._processes)} {how}; the others were ended", hint)

    def _failed(self, message: str, hint: str = "") -> None:
        self._end()
        self._why = RankError(message, hint)
        raise self._why

    def close(self) -> None:
        """End all ranks."""
        self._end()


def _check(cluster: ClusterConfig, device: torch.device) -> None:
    if sys.platform == "win32":
        raise ConfigError(f"cluster.ranks={cluster.ranks}: several processes run on Linux and macOS only", "set cluster.ranks=1")
    if device.type == "cuda" and cluster.ranks > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ConfigError(
            f"cluster.ranks={cluster.ranks}, but this machine has {there} GPUs: each rank needs its own", f"set it to {there}"
        )


def _user_error(name: str, message: str, hint: str) -> UserError:
    found = getattr(errors, name, UserError)
    return found(message, hint)


def _end(driver: int, processes: Sequence[subprocess.Popen[bytes]], connections: Sequence[Connection], hold: int, folder: Path) -> None:
    if os.getpid() != driver:  # a child that the driver forked
        return
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    for connection in connections:
        connection.close()
    os.close(hold)
    shutil.rmtree(folder, ignore_errors=True)
