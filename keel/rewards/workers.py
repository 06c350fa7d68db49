"""Rewards in processes of their own: one that hangs or dies is a failure on record, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from keel.core.errors import UserError
from keel.rewards.compare_config import CompareConfig
from keel.rewards.config import RewardConfig
from keel.rewards.score import Score, failure
from keel.rewards.settings import WorkerConfig
from keel.rewards.text import OnceLog, score_texts
from keel.rewards.worker import frame_of, score_of
from keel.sandbox.process import ending_text
from keel.types import Group, Prompt

_START_S = 120.0  # imports of a user's file may be slow; one that takes longer hangs


class _Worker:
    """One process. Its pipes are read by whoever waits for several at once."""

    def __init__(self, settings: bytes) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keel.rewards.worker"],
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
    """A ``RewardSource`` whose function runs in worker processes, started when there is work for them."""

    config: RewardConfig | CompareConfig
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
        worker = _Worker(pickle.dumps(self.config))
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
