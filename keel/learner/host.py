"""The ranks of a learner, as the driver sees them: asked by commands, ended together. Nothing is open between them while they wait, so the
driver may take as long as it likes between two commands."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keel.core import errors
from keel.core.errors import ConfigError, RankError, RankLostError, UserError
from keel.learner.config import ClusterConfig
from keel.learner.group import Group
from keel.learner.shown import Shown
from keel.learner.wire import packed, unpacked

_GRACE_S = 10.0  # in which all ranks find what one of them found wrong, and a dead one is told of
_CRASH_GRACE_S = 2.0  # the same for a fault of the program
_SEEN_S = 60.0  # in which files that another machine wrote are seen here; network file systems remember folders for a while
_POLL_S = 1.0
AGAIN = "start the same command again; it goes on from the last checkpoint"


class Host:
    """Asks the ranks of ``group``. A failure of one of them ends all: whoever waits for a dead one would wait for long."""

    def __init__(self, cluster: ClusterConfig, group: Group) -> None:
        self.cluster, self._group = cluster, group
        self.shown = Shown(self.call)
        self._ended: UserError | None = None

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self._group.world

    @property
    def group(self) -> Group:
        """Where the ranks are."""
        return self._group

    # --------------------------------------------------------------------------------------------------------------- commands

    def call(self, command: str, *args: Any) -> Any:
        """Let all ranks do ``command``; returns what rank 0 says. Raises the UserError that all of them raise, RankLostError where one died
        or cannot be reached, RankError where one failed by itself."""
        items = self.stream(command, *args)
        while True:
            try:
                next(items)
            except StopIteration as end:
                return end.value

    def stream(self, command: str, *args: Any) -> Iterator[Any]:
        """The same, with what rank 0 sends while it works, piece by piece. Taken to its end."""
        if self._ended is not None:
            raise self._ended
        self._group.begin(packed((command, args)))
        return (yield from self._answers())

    def _answers(self) -> Iterator[Any]:
        waited = set(range(self.world))
        raised: dict[int, UserError] = {}
        failed: dict[int, UserError] = {}  # by itself, or for want of another
        said: Any = None
        until = float("inf")
        while waited and time.monotonic() < until:
            for rank, data in self._group.answers(waited, _POLL_S):
                if data is None:
                    raise self._died(rank)
                kind, value = unpacked(data)
                if kind == "item":
                    yield value
                    continue
                waited.discard(rank)
                if kind == "done":
                    said = value if rank == 0 else said
                    continue
                (raised if kind == "user" else failed)[rank] = self._error(rank, kind, value)
                until = min(until, time.monotonic() + (_CRASH_GRACE_S if kind == "crash" else _GRACE_S))
        if failed:
            raise self._fail(next((e for e in failed.values() if not isinstance(e, RankLostError)), failed[min(failed)]))
        if raised:
            first = raised[min(raised)]
            if len(raised) < self.world:  # the others wait for it
                raise self._fail(RankError(f"rank {min(raised)} of {self.world} failed: {first.message}", first.hint))
            raise first
        return said

    def _error(self, rank: int, kind: str, value: Any) -> UserError:
        if kind == "user":
            name, message, hint = value
            return getattr(errors, name, UserError)(message, hint)
        if kind == "lost":
            return RankLostError(f"rank {rank} of {self.world} lost touch with the others: {value}; all were ended", AGAIN)
        return RankError(f"rank {rank} of {self.world} failed:\n{value}")

    def _died(self, rank: int) -> UserError:
        fate = self._group.fate(rank)
        hint = f"{AGAIN}. {fate.hint}" if fate.hint else AGAIN
        return self._fail(RankLostError(f"rank {rank} of {self.world} {fate.how}; the others were ended", hint))

    def _fail(self, error: UserError) -> UserError:
        """End all; from now on every command raises ``error``."""
        self._ended = error
        self._group.end()
        return error

    def close(self) -> None:
        """End all ranks."""
        self._ended = self._ended or RankError("the ranks were ended before")
        self._group.end()

    # ------------------------------------------------------------------------------------------------------------------ files

    def check_shared(self, folder: Path) -> None:
        """Raise ConfigError where a rank does not write to ``folder`` as this process sees it: it is on another disk."""
        mark = secrets.token_hex(8)
        ours = folder / f".ranks-{mark}"
        theirs = [folder / f".ranks-{mark}-{rank}" for rank in range(self.world)]
        try:
            ours.write_text(mark, encoding="utf-8")
            wrong = self.call("touch", ours, mark)
            if not wrong:
                wait_for(theirs)
        except FileNotFoundError as error:
            wrong = str(error)
        finally:
            for path in (ours, *theirs):
                path.unlink(missing_ok=True)
        if wrong:
            what = f"{folder} is not the same folder for all ranks: {wrong}"
            raise ConfigError(what, "ranks write checkpoints there: put run_dir on a disk that all machines share, under the same path")


def wait_for(paths: list[Path]) -> None:
    """Until files that other machines have written are seen here. Raises FileNotFoundError for one that is not."""
    until = time.monotonic() + _SEEN_S
    while missing := [path for path in paths if not path.exists()]:
        if time.monotonic() > until:
            raise FileNotFoundError(f"{missing[0].name} is not seen after {_SEEN_S:g} s")
        list(paths[0].parent.iterdir())  # reading the folder anew is what makes a network file system look again
        time.sleep(0.2)
