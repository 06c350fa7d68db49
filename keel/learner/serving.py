"""What a rank is wherever it runs: it joins the others and does the driver's commands, message by message."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Generator, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from keel.core.errors import UserError
from keel.learner.group import Setup
from keel.learner.served import Served
from keel.learner.sharded import Ranks
from keel.learner.wire import packed, unpacked

_MEETING_S = 60.0  # in which all ranks are to have met
_OTHERS = ("gloo/transport", "gloo/rendezvous", "Connection closed by peer", "ncclRemoteError", "ncclSystemError", "NCCL watchdog")


class Rank:
    """One rank."""

    def __init__(self, setup: Setup, listener: socket.socket | None = None) -> None:
        """Join the others; over TCP rank 0 listens with ``listener``. Raises what ``torch.distributed`` does for want of them."""
        logging.getLogger("keel").setLevel(logging.WARNING if setup.rank == 0 else logging.ERROR)
        torch.set_num_threads(setup.threads)
        torch.use_deterministic_algorithms(setup.deterministic, warn_only=True)
        if setup.device == "cuda":
            torch.cuda.set_device(setup.gpu)
        _join(setup, listener)
        self._speaks = setup.rank == 0
        self._served = Served(Ranks(torch.device(setup.device), sharing=setup.sharing, timeout_s=setup.timeout_s))

    def do(self, message: bytes) -> Iterator[bytes]:
        """One command of the driver. What it is told: (item, value) amid the command, by rank 0 alone, and last one of (done, value),
        (user, (error, message, hint)), (lost, why) where another rank cannot be reached, (crash, traceback)."""
        items = self._items(message)
        while True:
            try:
                item = packed(("item", next(items)))
            except StopIteration as end:
                last = packed(("done", end.value))
                break
            except UserError as error:
                last = packed(("user", (type(error).__name__, error.message, error.hint)))
                break
            except BaseException as error:
                last = told(error)
                break
            if self._speaks:
                yield item
        yield last

    def _items(self, message: bytes) -> Generator[Any, None, Any]:
        command, args = unpacked(message)
        return (yield from self._served.do(command, args))


def told(error: BaseException) -> bytes:
    """A failure as the driver is told of it: did this rank fail, or another one?"""
    text = str(error)
    if isinstance(error, dist.DistError) or any(mark in text for mark in _OTHERS):
        return packed(("lost", text.strip().splitlines()[0] if text.strip() else type(error).__name__))
    return packed(("crash", "".join(traceback.format_exception(error))))


def _join(setup: Setup, listener: socket.socket | None) -> None:
    backend = "cpu:gloo,cuda:nccl" if setup.device == "cuda" else "gloo"
    limit, place = timedelta(seconds=setup.timeout_s), urlsplit(setup.meeting)
    if place.scheme == "file":
        dist.init_process_group(backend, init_method=setup.meeting, rank=setup.rank, world_size=setup.world, timeout=limit)
        return
    assert place.hostname is not None
    assert place.port is not None
    store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        place.hostname,
        place.port,
        setup.world,
        is_master=setup.rank == 0,
        timeout=timedelta(seconds=_MEETING_S),
        wait_for_workers=False,
        master_listen_fd=listener.detach() if listener is not None else None,
    )
    dist.init_process_group(backend, store=store, rank=setup.rank, world_size=setup.world, timeout=limit)
