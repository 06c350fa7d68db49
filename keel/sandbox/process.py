"""One sandboxed interpreter, as the outside holds it: started, talked to in frames with a deadline, and ended for certain."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import select
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from keel.sandbox.policy import HIDDEN, identity, interpreter, readable
from keel.sandbox.syscalls import seccomp_filter

Kind = Literal["bubblewrap", "landlock", "none"]
MAX_FRAME = 8 << 20  # bytes of one message from inside: more is no answer


@dataclass(frozen=True, slots=True)
class Limits:
    """What one interpreter may use."""

    wall_s: float = 4.0
    cpu_s: float = 4.0
    memory_mb: int = 512
    output_kb: int = 1024

    def __post_init__(self) -> None:
        assert self.wall_s > 0, "a program needs time"
        assert self.cpu_s > 0, "a program needs time"


class GuestEndedError(Exception):
    """The interpreter ended, or broke the protocol; the text says how."""


class GuestTimeoutError(Exception):
    """The deadline passed."""


class SandboxError(Exception):
    """The sandbox could not be set up: nothing was run."""


class Guest:
    """A locked-in interpreter that waits for its work. Use as a context manager: leaving it ends the process."""

    def __init__(self, kind: Kind, limits: Limits, *, pipes: bool = False) -> None:
        """``pipes``: standard input, output and error are pipes (for programs) instead of nothing."""
        self.limits = limits
        inside_read, self._write_fd = os.pipe()
        self._read_fd, inside_write = os.pipe()
        std = subprocess.PIPE if pipes else subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                _command(kind, limits, (inside_read, inside_write)),
                stdin=std,
                stdout=std,
                stderr=std,
                pass_fds=(inside_read, inside_write),
                env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._write_fd)
            os.close(self._read_fd)
            raise SandboxError(f"{kind}: cannot be started: {error}") from error
        finally:
            os.close(inside_read)
            os.close(inside_write)
        os.set_blocking(self._write_fd, False)
        self._buffer = b""
        try:
            self.fences: tuple[str, ...] = self._locked_in(kind)
        except BaseException:
            self.close()
            raise

    def _locked_in(self, kind: Kind) -> tuple[str, ...]:
        try:
            said = self.receive(time.monotonic() + 30.0)
        except (GuestEndedError, GuestTimeoutError) as error:
            raise SandboxError(f"{kind}: the interpreter did not start inside it ({error})") from error
        if "fences" not in said:
            raise SandboxError(f"{kind}: {said.get('unsafe', 'no answer')}")
        return tuple(said["fences"])

    def send(self, message: Any, deadline: float) -> None:
        """Raises GuestEndedError, GuestTimeoutError."""
        body = json.dumps(message).encode()
        data = memoryview(struct.pack(">I", len(body)) + body)
        while data:
            _, ready, _ = select.select([], [self._write_fd], [], _left(deadline))
            if not ready:
                raise GuestTimeoutError("it reads nothing")
            try:
                data = data[os.write(self._write_fd, data) :]
            except BrokenPipeError:
                raise GuestEndedError(self._ending()) from None

    def receive(self, deadline: float) -> Any:
        """The next message. Raises GuestEndedError, GuestTimeoutError."""
        while True:
            if len(self._buffer) >= 4:
                (length,) = struct.unpack(">I", self._buffer[:4])
                if length > MAX_FRAME:
                    raise GuestEndedError("its answer is too large")
                if len(self._buffer) >= 4 + length:
                    body, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
                    return _parsed(body)
            ready, _, _ = select.select([self._read_fd], [], [], _left(deadline))
            if not ready:
                raise GuestTimeoutError("the time limit was reached")
            part = os.read(self._read_fd, 1 << 16)
            if not part:
                raise GuestEndedError(self._ending())
            self._buffer += part

    def _ending(self) -> str:
        try:
            code = self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        return ending_text(code)

    def close(self) -> None:
        """End the process, whatever it does, and wait for it."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ending_text(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        signals = {128 + s: s for s in signal.Signals}  # bubblewrap passes a signal on in this form
        return f"it was ended by {signals[code].name}" if code in signals else f"it exited with code {code}"
    return f"it was ended by {signal.Signals(-code).name}"


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise GuestEndedError("it broke the protocol") from None
    if not isinstance(message, dict):
        raise GuestEndedError("it broke the protocol")
    return message


@cache
def _guest_source() -> str:
    """The guest as one text: the bare interpreter inside cannot import from here."""
    values, guest = (resources.files("keel.sandbox").joinpath(name).read_text(encoding="utf-8") for name in ("values.py", "guest.py"))
    return values + "\n".join(line for line in guest.splitlines() if not line.startswith("from keel."))


@cache
def _filter() -> str:
    return base64.b64encode(seccomp_filter()).decode()


def _command(kind: Kind, limits: Limits, channel: tuple[int, int]) -> list[str]:
    cpu = math.ceil(limits.cpu_s) + 1
    setup = {
        "sandbox": kind,
        "channel": channel,
        "parent": 0 if kind == "bubblewrap" else os.getpid(),  # inside bubblewrap the parent is another
        "uid": identity() if kind == "landlock" else None,
        "readable": readable() if kind != "none" else (),
        "filter": _filter() if kind != "none" else "",
        "limits": {
            "AS": limits.memory_mb << 20, "CPU": cpu, "FSIZE": 0, "CORE": 0, "NOFILE": 64, "NPROC": 1,
        } if kind != "none" else {"AS": limits.memory_mb << 20, "CPU": cpu, "CORE": 0},
    }  # fmt: skip
    python = [interpreter(), "-S", "-P", "-s", "-B", "-c", _guest_source(), json.dumps(setup)]
    return [*_bubblewrap(), *python] if kind == "bubblewrap" else python


def _bubblewrap() -> list[str]:
    """Nothing but the interpreter and its libraries is mounted, read-only; new namespaces of every kind; ended with its parent."""
    arguments = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent", "--new-session"]
    arguments += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    folders = [path for path, rights in readable() if rights == "names"]
    for folder in folders:
        arguments += ["--ro-bind", os.path.realpath(folder), folder]
        for hidden in (os.path.join(folder, name) for name in HIDDEN):
            if os.path.isdir(hidden):
                arguments += ["--tmpfs", hidden]
    for path, _ in readable():
        if not any(path == folder or path.startswith(folder + "/") for folder in folders):
            arguments += ["--ro-bind", os.path.realpath(path), path]
    arguments += ["--ro-bind", interpreter(), interpreter()]
    for link in ("/lib", "/lib64", "/bin", "/sbin"):
        if os.path.islink(link):
            arguments += ["--symlink", os.readlink(link), link]
    return [*arguments, "--chdir", "/", "--"]
