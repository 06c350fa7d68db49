"""Rollouts of a training as they arrive, in files that are only appended to: a run that was killed learns from those that were drawn.

Some engines do not draw the same twice, and weights that come in flight come at another token each time. So what was drawn once is kept: a
rollout is found again by the weights that it was asked of, its request and its sample. A file belongs to the steps behind one checkpoint;
those of the last two are kept. What a crash tore off at a file's end is not read, and no file is written to by two processes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keel.rollout.records import packed, unpacked
from keel.rollout.server import wire
from keel.runs.disk import DISK
from keel.types import Rollout, SampleRequest

log = logging.getLogger("keel")
_SIZE, _SUM = 8, 4  # bytes before each entry: how long it is, and its checksum


def key_of(weights: str, request: SampleRequest, sample: int) -> str:
    """What a rollout is found by: the digest of the weights that were there when it was asked for, what was asked, which sample."""
    asked = [request.seed, request.prompt_id, request.attempt, sample, request.prompt.tokens_T.tolist(), asdict(request.params)]
    return hashlib.sha256(json.dumps([weights, *asked]).encode()).hexdigest()[:32]


class Journal:
    """The rollouts in ``folder``. Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        """Reads what is there."""
        self._folder, self._lock = folder, threading.Lock()
        self._known: dict[str, Rollout] = {}
        self._path: Path | None = None  # written to from the first rollout on
        parts = sorted(folder.glob("*.rollouts"))
        self._behind, self._next = max((_named(part) for part in parts), default=(0, -1))
        self._next += 1
        for part in parts:
            for keys, rollouts in _entries(part):
                self._known |= dict(zip(keys, rollouts, strict=True))
        if self._known:
            log.info("the journal holds %d rollouts, which are not drawn again where they are asked for", len(self._known))

    def take(self, key: str) -> Rollout | None:
        """The rollout of this key, if it was drawn before this process began; each is found once."""
        with self._lock:
            return self._known.pop(key, None)

    def append(self, keys: Sequence[str], rollouts: Sequence[Rollout]) -> None:
        """Keep these; when it returns they survive a power cut. Raises OSError, and ValueError for rollouts of conversations."""
        tensors, plain = packed(rollouts)
        body = wire.write({"keys": list(keys), "rollouts": plain}, tensors)
        with self._lock:
            path = self._path = self._path or self._begin()
            with path.open("ab") as file:
                file.write(len(body).to_bytes(_SIZE, "little") + zlib.crc32(body).to_bytes(_SUM, "little") + body)
                file.flush()
                os.fsync(file.fileno())

    def behind(self, step: int) -> None:
        """The state after ``step`` steps goes into a checkpoint now: what comes is behind it. The files before the checkpoint that is there
        already are of no use any more."""
        with self._lock:
            parts = sorted(self._folder.glob("*.rollouts"))
            kept = max((_named(part)[0] for part in parts if _named(part)[0] < step), default=0)
            for part in parts:
                if _named(part)[0] < kept:
                    DISK.remove(part)
            if step != self._behind:
                self._behind, self._next, self._path = (
                    step,
                    1 + max((_named(p)[1] for p in parts if _named(p)[0] == step), default=-1),
                    None,
                )

    def _begin(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{self._behind:08d}-{self._next:04d}.rollouts"
        path.touch()
        DISK.sync_dir(self._folder)
        return path


def _named(part: Path) -> tuple[int, int]:
    """The step of the checkpoint that it is behind, and which of its files it is; of others' files, what is before all."""
    step, _, number = part.stem.partition("-")
    return (int(step), int(number)) if step.isdigit() and number.isdigit() else (-1, -1)


def _entries(part: Path) -> Iterator[tuple[list[str], Sequence[Rollout]]]:
    """All whole entries, up to the first that is none."""
    raw, at = part.read_bytes(), 0
    while at + _SIZE + _SUM <= len(raw):
        size = int.from_bytes(raw[at : at + _SIZE], "little")
        body = raw[at + _SIZE + _SUM : at + _SIZE + _SUM + size]
        if len(body) != size or zlib.crc32(body) != int.from_bytes(raw[at + _SIZE : at + _SIZE + _SUM], "little"):
            break
        plain: dict[str, Any]
        plain, tensors = wire.read(body)
        yield plain["keys"], unpacked(tensors, plain["rollouts"])
        at += _SIZE + _SUM + size
    if at < len(raw):
        log.warning("%s: the last %d bytes were torn off by a crash: what they held is drawn again", part.name, len(raw) - at)
