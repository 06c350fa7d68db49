"""Episodes in processes of their own: one that hangs or dies is a failure with a name, and the others go on.

A mother process (``python -m keel.environments.mother``) runs the user's file once, and forks for each episode: a child starts in
milliseconds, with memory and random generators of its own. It is handed the child's end of a socket; from then on child and this process
talk in frames (``sandbox/frames.py``), pickled on the way in, JSON on the way out, one question at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from keel.core.errors import UserError
from keel.environments.config import EnvironmentConfig
from keel.environments.host import Answer, End, Failure
from keel.environments.play import Opening, Start, Step
from keel.sandbox.frames import frame_of, receive_frame
from keel.types import Endpoint, Message

_START_S = 120.0  # imports of a user's file may be slow; one that takes longer hangs
_PART = 1 << 16
R = TypeVar("R")


class Line:
    """This process's end of a child's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.pid, self.buffer = connection, 0, b""

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, body: bytes) -> None:
        with contextlib.suppress(OSError):  # a child that is gone is found out when it is read
            self.connection.sendall(frame_of(body))

    def read(self) -> dict[str, Any] | None:
        """What there is to read: the answer when it is whole, None while it is not. Raises EOFError when the process is gone."""
        try:
            part = self.connection.recv(_PART)
        except OSError:
            part = b""
        if not part:
            raise EOFError
        self.buffer += part
        while len(self.buffer) >= 4 and len(self.buffer) >= (end := 4 + struct.unpack(">I", self.buffer[:4])[0]):
            found: dict[str, Any] = json.loads(self.buffer[4:end])
            self.buffer = self.buffer[end:]
            if "pid" not in found:
                return found  # one question, one answer: nothing follows it
            self.pid = found["pid"]  # what a child says first
        return None

    def end(self) -> None:
        """Kill the child with all that it started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.connection.close()


class Processes:
    """A mother process that ran the user's file, and her children by number. ``agent``: what the file has is one."""

    def __init__(self, config: EnvironmentConfig) -> None:
        """Raises UserError for a file, a name or arguments that are not right."""
        self.config = config
        self.lines: dict[int, Line] = {}
        self._control, theirs = socket.socketpair()
        self._mother = subprocess.Popen(
            [sys.executable, "-m", "keel.environments.mother", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={
                "OMP_NUM_THREADS": "1",
                "PYTHONHASHSEED": "0",
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            },
            start_new_session=True,
        )
        theirs.close()
        self._finish = weakref.finalize(self, _end, self._mother, self._control, self.lines)
        self._control.sendall(frame_of(pickle.dumps((config.path, config.arguments))))
        self._control.settimeout(_START_S)
        try:
            body = receive_frame(self._control)
        except TimeoutError:
            body = None
        if body is None:
            self.close()
            raise UserError(f"environment {config.path}: its process cannot start", "standard error has its message")
        self._control.settimeout(None)
        said = json.loads(body)
        if mistake := said.get("mistake"):
            self.close()
            raise UserError(*mistake)
        self.agent = bool(said["agent"])

    def fork(self, number: int) -> None:
        """A new child."""
        assert number not in self.lines, f"episode {number} is open"
        ours, theirs = socket.socketpair()
        self.lines[number] = Line(ours)
        try:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        except OSError as error:
            raise UserError(f"environment {self.config.path}: its process has ended: {error}", "standard error has its message") from None
        finally:
            theirs.close()

    def ask(self, number: int, question: Any) -> None:
        """The time of a question begins now."""
        self.lines[number].send(pickle.dumps(question))

    def heard(self, number: int) -> dict[str, Any] | Failure | None:
        """What a child has sent; None where that is not the whole reply."""
        try:
            answer = self.lines[number].read()
        except EOFError:
            return Failure(f"the {'agent' if self.agent else 'episode'}'s process died")
        return Failure(answer["error"]) if answer is not None and "error" in answer else answer

    def drop(self, numbers: Sequence[int]) -> None:
        """End children; what is not there is left alone."""
        for number in numbers:
            if (line := self.lines.pop(number, None)) is not None:
                line.end()

    def close(self) -> None:
        """End all processes. They also end with this one, and when this object is gone."""
        self._finish()


class WorkerHost:
    """A ``Host`` whose episodes are processes; ``config.processes`` of them work at the same time, the others wait for their turn."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self.config = processes, processes.config

    def open(self, starts: Sequence[tuple[int, Start]]) -> list[Opening | Failure]:
        return self._ask([(number, ("open", start)) for number, start in starts], _opening, self._processes.fork)

    def answer(self, answers: Sequence[tuple[int, Answer]]) -> list[Step | Failure]:
        return self._ask([(number, ("answer", *answer)) for number, answer in answers], _step)

    def end(self, numbers: Sequence[int]) -> list[End | Failure]:
        found = self._ask([(number, ("end",)) for number in numbers], lambda a: (a["reward"], a["parts"]))
        self.drop(numbers)
        return found

    def drop(self, numbers: Sequence[int]) -> None:
        self._processes.drop(numbers)

    def close(self) -> None:
        self._processes.close()

    def _ask(
        self, asked: Sequence[tuple[int, Any]], read: Callable[[dict[str, Any]], R], before: Callable[[int], None] | None = None
    ) -> list[R | Failure]:
        """What each episode says, in order. The time of a question begins when it is sent."""
        found: list[R | Failure] = [Failure("not asked")] * len(asked)
        waiting = list(range(len(asked)))[::-1]
        busy: dict[int, float] = {}  # place in the list -> until when
        with selectors.DefaultSelector() as selector:
            while waiting or busy:
                done: list[int] = []
                while waiting and len(busy) < self.config.processes:
                    place = waiting.pop()
                    number, question = asked[place]
                    if before is not None:
                        before(number)
                    self._processes.ask(number, question)
                    selector.register(self._processes.lines[number], selectors.EVENT_READ, place)
                    busy[place] = time.monotonic() + self.config.timeout_s
                for key, _ in selector.select(max(0.0, min(busy.values()) - time.monotonic())):
                    said = self._processes.heard(asked[key.data][0])
                    if said is not None:
                        found[key.data] = said if isinstance(said, Failure) else read(said)
                        done.append(key.data)
                late = [place for place, until in busy.items() if place not in done and until <= time.monotonic()]
                for place in late:
                    found[place] = Failure(f"the episode hung: no reply after {self.config.timeout_s:g} s")
                for place in (*done, *late):
                    number = asked[place][0]
                    selector.unregister(self._processes.lines[number])
                    del busy[place]
                    if isinstance(found[place], Failure):
                        self.drop([number])
        return found


class AgentHost:
    """Agents, each in a process, all at the same time."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self.config = processes, processes.config

    def begin(self, number: int, start: Start, endpoint: Endpoint) -> None:
        """Start one."""
        self._processes.fork(number)
        self._processes.ask(number, ("run", start, endpoint))

    @property
    def lines(self) -> Mapping[int, Line]:
        """What there is to wait on, by number."""
        return self._processes.lines

    def heard(self, number: int) -> End | Failure | None:
        """What an agent ended with; None while it is at work. To be asked when its line can be read."""
        said = self._processes.heard(number)
        return (said["reward"], said["parts"]) if isinstance(said, dict) else said

    def drop(self, numbers: Sequence[int]) -> None:
        """End agents with all that they started; what is not there is left alone."""
        self._processes.drop(numbers)

    def close(self) -> None:
        self._processes.close()


def _end(mother: subprocess.Popen[bytes], control: socket.socket, lines: dict[int, Line]) -> None:
    for line in lines.values():
        line.end()
    lines.clear()
    control.close()
    if mother.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(mother.pid, signal.SIGKILL)
        mother.wait()


def _opening(answer: dict[str, Any]) -> Opening:
    return Opening(_read_messages(answer["messages"]), tuple(answer["tools"]))


def _step(answer: dict[str, Any]) -> Step:
    return Step(_read_messages(answer["messages"]), answer["reward"], answer["parts"], answer["done"], answer["calls"], answer["bad_calls"])


def _read_messages(rows: Sequence[Any]) -> tuple[Message, ...]:
    return tuple(Message(role, content, extra) for role, content, extra in rows)
