"""A program in the sandbox: text in, text out, ended at its limits."""

from __future__ import annotations

import os
import select
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

from keel.sandbox.process import Guest, GuestEndedError, GuestTimeoutError, Kind, Limits, ending_text

_ERRORS_KB = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended and what it wrote."""

    status: Literal["exited", "timed_out", "too_much_output"]
    code: int  # exit code, minus the signal's number; 0 only for a program that came to its end
    stdout: str
    stderr: str

    @property
    def ending(self) -> str:
        """In words."""
        if self.status == "exited":
            last = self.stderr.strip().splitlines()
            return ending_text(self.code) + (f" ({last[-1][:200]})" if self.code and last else "")
        return "the time limit was reached" if self.status == "timed_out" else "it wrote too much"


def run_script(source: str, stdin: str, kind: Kind, limits: Limits) -> Outcome:
    """Run Python code as a program. Raises SandboxError when it could not be started inside."""
    with Guest(kind, limits, pipes=True) as guest:
        deadline = time.monotonic() + limits.wall_s
        try:
            guest.send({"work": "script", "source": source}, deadline)
        except (GuestEndedError, GuestTimeoutError) as error:
            return Outcome("timed_out", -9, "", str(error))
        return _pump(guest, stdin.encode("utf-8", "surrogatepass"), deadline)


def _pump(guest: Guest, given: bytes, deadline: float) -> Outcome:
    """Feed and read until both outputs are closed, the deadline, or too much output."""
    process = guest.process
    assert process.stdin is not None, "a program has pipes"
    assert process.stdout is not None, "a program has pipes"
    assert process.stderr is not None, "a program has pipes"
    caps = {process.stdout.fileno(): guest.limits.output_kb << 10, process.stderr.fileno(): _ERRORS_KB << 10}
    texts = dict.fromkeys(caps, b"")
    into, out, err = process.stdin.fileno(), *caps
    os.set_blocking(into, False)
    open_fds, left, status = set(caps), memoryview(given), "exited"
    if not left:
        process.stdin.close()
    while open_fds and status == "exited":
        writers = [into] if left else []
        readable, writable, _ = select.select(list(open_fds), writers, [], max(0.0, deadline - time.monotonic()))
        if not readable and not writable:
            status = "timed_out"
        for fd in readable:
            part = os.read(fd, 1 << 16)
            texts[fd] += part
            if not part:
                open_fds.discard(fd)
            if len(texts[fd]) > caps[fd]:
                texts[fd] = texts[fd][: caps[fd]]
                status = "too_much_output" if fd == out else status
        if writable:
            left = _fed(into, left)
            if not left:
                process.stdin.close()
    if status == "exited":
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # it closed its outputs and went on
            status = "timed_out"
    code = process.returncode if process.returncode is not None else -9
    return Outcome(status, code, texts[out].decode("utf-8", "replace"), texts[err].decode("utf-8", "replace"))


def _fed(fd: int, left: memoryview) -> memoryview:
    try:
        return left[os.write(fd, left) :]
    except BrokenPipeError:  # it does not want to read on
        return left[len(left) :]
