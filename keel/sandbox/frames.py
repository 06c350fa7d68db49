"""How a process and its workers talk: frames of 4 bytes of length and a body; and workers that end with the process that started them."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from typing import BinaryIO

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's body; None when the other end is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    body = stream.read(struct.unpack(">I", head)[0])
    return body


def receive_frame(line: socket.socket) -> bytes | None:
    """The next frame's body from a socket, and not a byte more; None when the other end is gone."""
    head = _exactly(line, 4)
    return None if head is None else _exactly(line, struct.unpack(">I", head)[0])


def _exactly(line: socket.socket, size: int) -> bytes | None:
    found = b""
    while len(found) < size:
        try:
            part = line.recv(size - len(found))
        except ConnectionError:
            return None
        if not part:
            return None
        found += part
    return found


def frame_of(body: bytes) -> bytes:
    """A body as it goes over the pipe."""
    return struct.pack(">I", len(body)) + body


def die_with_parent() -> None:
    """From now on this process is killed when its parent ends. On Linux; elsewhere the end of its pipe tells it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
