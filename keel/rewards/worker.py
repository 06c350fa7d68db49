"""The inside of a reward worker: a process that scores one answer, or compares two, at a time (``python -m keel.rewards.worker``).

Frames on two file descriptors of its own: 4 bytes of length, then the body. What comes in is pickled by the process that started it; what
goes out is JSON. Standard output is turned into standard error, so that a user's ``print`` cannot be mistaken for an answer.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from keel.core.errors import UserError
from keel.rewards.score import Score, as_score, failure
from keel.types import Prompt

PR_SET_PDEATHSIG, SIGKILL = 1, 9


def main() -> None:
    """Build the reward that the first frame describes, say so, and score what the others hold, until there are no more."""
    _die_with_parent()
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


def _build(frame: bytes | None) -> Callable[[Prompt, Any], float]:
    from keel.rewards.build_text import judging

    assert frame is not None, "the first frame is the reward's settings"
    sys.path[:0] = [""] if "" not in sys.path else []
    return judging(pickle.loads(frame))


def _scored(reward: Callable[[Prompt, Any], float], prompt: Prompt, text: Any) -> dict[str, Any]:
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


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's body; None when the other end is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    body = stream.read(struct.unpack(">I", head)[0])
    return body


def frame_of(body: bytes) -> bytes:
    """A body as it goes over the pipe."""
    return struct.pack(">I", len(body)) + body


def _write(stream: BinaryIO, answer: dict[str, Any]) -> None:
    stream.write(frame_of(json.dumps(answer, ensure_ascii=True).encode()))
    stream.flush()


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
