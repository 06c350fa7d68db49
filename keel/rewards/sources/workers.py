"""Rewards in processes of their own: one that hangs or dies is a failure on record, and the run goes on.

Both ends of the pipe are here; the inside of a worker, a process that scores one answer or compares two at a time, is ``main``
(``python -m keel.rewards.sources.workers``). Frames on two file descriptors of its own: 4 bytes of length, then the body. What comes in
is pickled by the process that started it; what goes out is JSON. Standard output is turned into standard error, so that a user's
``print`` cannot be mistaken for an answer.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from keel.core.errors import UserError
from keel.rewards.score import Score, as_score, failure
from keel.rewards.settings import WorkerConfig
from keel.rewards.text import OnceLog, score_texts
from keel.sandbox.frames import die_with_parent, frame_of, read_frame
from keel.sandbox.process import ending_text
from keel.types import Group, Prompt

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and workers start, without torch

    from keel.rewards.settings import SourceConfig
    from keel.rewards.sources.python import CompareConfig

_START_S = 120.0  # imports of a user's file may be slow; one that takes longer hangs

Scorer = Callable[[Prompt, Any], float]  # of an answer, or of two
Make = Callable[[Any], Scorer]  # of settings


class _Worker:
    """One process. Its pipes are read by whoever waits for several at once."""

    def __init__(self, settings: bytes) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keel.rewards.sources.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
            start_new_session=True,  # ended with all that it started
        )
        self.buffer = b""
        self.finish = weakref.finalize(self, _end, self.process)
        self.send(settings)

    def fileno(self) -> int:
        assert self.process.stdout is not None, "it has a pipe"
        return self.process.stdout.fileno()

    def send(self, body: bytes) -> None:
        """Hand over a frame; a worker that is gone is found out when it is read."""
        assert self.process.stdin is not None, "it has a pipe"
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(frame_of(body))
            self.process.stdin.flush()

    def read(self) -> dict | None:
        """Take what there is to read. The answer when it is whole, None while it is not. Raises EOFError when the process is gone."""
        part = os.read(self.fileno(), 1 << 16)
        if not part:
            raise EOFError(ending_text(self.process.wait()))
        self.buffer += part
        if len(self.buffer) < 4 or len(self.buffer) < 4 + struct.unpack(">I", self.buffer[:4])[0]:
            return None
        body, self.buffer = self.buffer[4:], b""  # one question, one answer: nothing can follow it
        return json.loads(body)

    def end(self) -> None:
        self.finish()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@dataclass(slots=True)
class _Task:
    """An answer on its way: ``place`` in the list, and when its worker is taken for hung."""

    place: int
    deadline: float


@dataclass(slots=True, weakref_slot=True)
class WorkerSource:
    """A ``RewardSource`` whose function runs in worker processes, started when there is work for them. ``make`` makes it of the settings,
    in the worker: a function of a module, which brings no more than that module's imports with it."""

    config: SourceConfig | CompareConfig
    make: Make
    options: WorkerConfig
    warn: OnceLog = field(default_factory=OnceLog, repr=False)
    _idle: list[_Worker] = field(default_factory=list, init=False, repr=False)

    @property
    def name(self) -> str:
        return self.config.name

    def start(self) -> None:
        """Start one worker and wait until its reward is built. Raises UserError when the user's file, function or library is not right."""
        self._idle.append(self._new())

    def score(self, groups: Sequence[Group]) -> list[Tensor]:
        """float32 [G] for each group; NaN where the rollout or the reward failed."""
        return score_texts(self, groups, self.warn)

    def judge(self, items: Sequence[tuple[Prompt, Any]]) -> list[Score]:
        """One score for each (prompt, what its function takes: an answer, or two). A worker that takes longer than ``timeout_s``, or ends,
        gives a failure, and another worker takes its place. Raises UserError for a mistake in the user's function (a result that is no
        number)."""
        scores: list[Score] = [failure("not scored")] * len(items)
        waiting = list(range(len(items)))[::-1]
        busy: dict[_Worker, _Task] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.options.processes:
                    worker, place = self._idle.pop() if self._idle else self._new(), waiting.pop()
                    worker.send(pickle.dumps(items[place]))
                    busy[worker] = _Task(place, time.monotonic() + self.options.timeout_s)
                self._collect(busy, scores)
        finally:
            for worker in busy:  # an exception: what they were asked would answer the next question
                worker.end()
        return scores

    def _collect(self, busy: dict[_Worker, _Task], scores: list[Score]) -> None:
        """Wait until a worker has something to say or its time is up."""
        left = min(task.deadline for task in busy.values()) - time.monotonic()
        ready, _, _ = select.select(list(busy), [], [], max(0.0, left))
        for worker in ready:
            try:
                answer = worker.read()
            except EOFError as error:
                scores[busy.pop(worker).place] = failure(f"worker died: {error}")
                worker.end()
                continue
            if answer is not None:
                scores[busy.pop(worker).place] = score_of(answer)
                self._idle.append(worker)
        for worker in [w for w, task in busy.items() if task.deadline <= time.monotonic()]:
            scores[busy.pop(worker).place] = failure(f"worker hung: no score after {self.options.timeout_s:g} s")
            worker.end()

    def _new(self) -> _Worker:
        worker = _Worker(pickle.dumps((self.make, self.config)))
        deadline = time.monotonic() + _START_S
        try:
            answer = None
            while answer is None:
                ready, _, _ = select.select([worker], [], [], max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise EOFError(f"it was not ready after {_START_S:g} s")
                answer = worker.read()
            if "mistake" in answer:
                score_of(answer)  # raises
        except EOFError as error:
            worker.end()
            raise UserError(f"reward {self.name!r}: its worker process cannot start: {error}", "standard error has its message") from None
        except UserError:
            worker.end()
            raise
        return worker

    def close(self) -> None:
        """End the workers. They also end with this process, and when this object is gone."""
        while self._idle:
            self._idle.pop().end()


# --- the inside of a worker -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Build the reward that the first frame describes, say so, and score what the others hold, until there are no more."""
    die_with_parent()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        reward = _build(read_frame(incoming))
    except UserError as error:
        _write(outgoing, {"mistake": [error.message, error.hint]})
        return
    _write(outgoing, {"ready": True})
    while (frame := read_frame(incoming)) is not None:
        prompt, text = pickle.loads(frame)
        _write(outgoing, _scored(reward, prompt, text))


def _build(frame: bytes | None) -> Scorer:
    assert frame is not None, "the first frame is what makes the reward, and its settings"
    sys.path[:0] = [""] if "" not in sys.path else []
    make, config = pickle.loads(frame)
    return make(config)


def _scored(reward: Scorer, prompt: Prompt, text: Any) -> dict[str, Any]:
    try:
        score = as_score(reward(prompt, text))
    except UserError as error:
        return {"mistake": [error.message, error.hint]}
    except Exception as error:  # one bad answer must not end the worker; the score is a failure
        score = failure(f"{type(error).__name__}: {error}")
    return {"score": None if math.isnan(score) else float(score), "reason": score.reason, "error": score.error}


def score_of(answer: dict[str, Any]) -> Score:
    """The score in a worker's answer. Raises UserError for a mistake of the user's."""
    if "mistake" in answer:
        raise UserError(*answer["mistake"])
    return Score(math.nan if answer["score"] is None else answer["score"], answer["reason"], answer["error"])


def _write(stream: BinaryIO, answer: dict[str, Any]) -> None:
    stream.write(frame_of(json.dumps(answer, ensure_ascii=True).encode()))
    stream.flush()


if __name__ == "__main__":
    main()
