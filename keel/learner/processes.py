"""Ranks as processes of this machine. They find each other through a file and talk over the loopback interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

import torch

from keel.core.errors import ConfigError
from keel.learner.config import ClusterConfig
from keel.learner.group import LOOPBACK, Fate, refuse_windows, setup_of, threads_of_a_rank
from keel.learner.wire import packed

RANK = ("-m", "keel.learner.rank")


class Processes:
    """A ``Group`` of ``cluster.ranks`` processes, beside the driver's. They live as long as it does, and no longer."""

    def __init__(self, cluster: ClusterConfig, device: torch.device, program: Sequence[str] = RANK) -> None:
        """Start them; they load what they need while the driver goes on. Raises ConfigError where there are fewer GPUs than ranks."""
        refuse_windows(cluster)
        _check_gpus(cluster, device)
        self.world, self._cluster, self._device, self._program = cluster.ranks, cluster, device, program
        self._folder = Path(tempfile.mkdtemp(prefix="keel-ranks-"))
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
        threads = threads_of_a_rank(self._device, self.world)
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [env.get("PYTHONPATH")])])
        command = [sys.executable, *self._program, str(theirs.fileno()), str(life)]
        self._processes.append(subprocess.Popen(command, pass_fds=(theirs.fileno(), life), env=env, stdin=subprocess.DEVNULL))
        theirs.close()
        self._connections.append(ours)
        told = setup_of(rank, self.world, self._cluster, self._device, f"file://{self._folder / 'store'}", gpu=rank)
        with contextlib.suppress(OSError):  # one that is dead already is told of by the first answers
            ours.send_bytes(packed(told))

    def begin(self, data: bytes) -> None:
        """See ``Group``."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.send_bytes(data)

    def answers(self, waited: Collection[int], within_s: float) -> list[tuple[int, bytes | None]]:
        """See ``Group``."""
        said: list[tuple[int, bytes | None]] = []
        for connection in wait([self._connections[rank] for rank in waited], within_s):
            rank = next(r for r in waited if self._connections[r] is connection)
            try:
                said.append((rank, self._connections[rank].recv_bytes()))
            except (EOFError, OSError):
                said.append((rank, None))
        return said

    def fate(self, rank: int) -> Fate:
        """See ``Group``."""
        process = self._processes[rank]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return Fate(how, "Signal 9 is also what the system sends when memory is full" if code == -9 else "")

    def end(self) -> None:
        """See ``Group``."""
        self._end()


def _check_gpus(cluster: ClusterConfig, device: torch.device) -> None:
    if device.type == "cuda" and cluster.ranks > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ConfigError(
            f"cluster.ranks={cluster.ranks}, but this machine has {there} GPUs: each rank needs its own", f"set it to {there}"
        )


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
