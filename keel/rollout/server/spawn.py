"""Engines as processes beside the trainer's: they live as long as it does, and no longer."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time

from keel.core.errors import UserError

_START_S = 120.0


class Spawned:
    """Local engines, each at a port of its own that it keeps when it is started again."""

    def __init__(self, n: int) -> None:
        self._processes = [self._start(0) for _ in range(n)]
        self.ports = [self._port(p) for p in self._processes]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def revive(self) -> None:
        """Start those again that have ended."""
        for i, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[i] = self._start(self.ports[i])
                self._port(self._processes[i])

    def stop(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()  # it ends at the end of its input
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def _start(port: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "keel.rollout.server.main", str(port)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

    @staticmethod
    def _port(process: subprocess.Popen[str]) -> int:
        """Where it listens: its first line. Raises UserError when it ends before."""
        assert process.stdout is not None
        until = time.monotonic() + _START_S
        while time.monotonic() < until and process.poll() is None:
            if select.select([process.stdout], [], [], 0.2)[0] and (line := process.stdout.readline()):
                return int(json.loads(line)["port"])
        process.kill()
        raise UserError(f"an engine did not start (exit code {process.wait()})", "its own words are above; set sampler.engine=local")
