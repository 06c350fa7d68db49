"""A rank as an actor of a Ray cluster. What Ray hands over are bytes; what is in them is between driver and rank, as over a pipe."""

from __future__ import annotations

import importlib
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from keel.core.version import VERSION

_FRAME = 1 << 26  # bytes handed over at once: more would fill the store that machines share objects by
_MORE, _LAST = b"\x00", b"\x01"
_PACKAGES = ("torch", "transformers", "peft", "safetensors")
_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


@dataclass(frozen=True, slots=True)
class Look:
    """Where a rank is and what it runs on."""

    address: str
    machine: str
    pid: int
    versions: dict[str, str]
    folder: bool  # is the driver's working folder there?


class RayRank:
    """The methods that a driver calls, in this order: look, listen (rank 0), join, do and do again."""

    def look(self, folder: str) -> Look:
        """Go to the driver's working folder, which relative paths of a recipe begin at."""
        there = os.path.isdir(folder)
        if there:
            os.chdir(folder)
        return Look(_address(), socket.gethostname(), os.getpid(), versions(), there)

    def listen(self) -> str:
        """Of rank 0: where the others meet it, tcp://ADDRESS:PORT."""
        address = _address()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind((address, 0))
        self._listener.listen(1024)
        host = f"[{address}]" if family is socket.AF_INET6 else address
        return f"tcp://{host}:{self._listener.getsockname()[1]}"

    def join(self, setup: bytes) -> None:
        """Load what a rank needs and meet the others. What goes wrong is the answer to the first command."""
        if name := interface_of(_address()):
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(variable, name)
        from keel.learner.serving import Rank, told  # seconds of imports, while the driver goes on
        from keel.learner.wire import unpacked

        self._broken = b""
        try:
            self._rank = Rank(unpacked(setup), getattr(self, "_listener", None))
        except Exception as error:
            self._broken = told(error)

    def do(self, message: bytes) -> Iterator[bytes]:
        """One command: its answers, each in frames."""
        answers: Iterable[bytes] = [self._broken] if self._broken else self._rank.do(message)
        for answer in answers:
            yield from frames(answer)


def frames(message: bytes, size: int = _FRAME) -> Iterator[bytes]:
    """A message in parts; the first byte of each says whether it is the last one."""
    for first in range(0, max(1, len(message)), size):
        yield (_LAST if first + size >= len(message) else _MORE) + message[first : first + size]


def joined(parts: list[bytes]) -> bytes | None:
    """The message, once its last part is there."""
    return b"".join(part[1:] for part in parts) if parts and parts[-1][:1] == _LAST else None


def versions() -> dict[str, str]:
    """What has to be the same for driver and ranks."""
    found = {"keel": VERSION, "python": ".".join(map(str, sys.version_info[:2]))}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where that cannot be found out."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            for _, name in socket.if_nameindex():
                try:
                    said = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                except OSError:  # an interface without one
                    continue
                if socket.inet_ntoa(said[20:24]) == address:
                    return name
    except (ImportError, OSError):
        return None
    return None


def _address() -> str:
    return importlib.import_module("ray").util.get_node_ip_address()
