"""Which weights drew which token, where weights come in while requests are under way and the engine's answer does not say."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from keel.rollout.server.protocol import EngineError


@dataclass(slots=True)
class Ticket:
    """A request under way: the version that it was begun with, and from which token on another one drew."""

    name: str
    version: int
    digest: str
    epoch: int
    changes: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False  # the engine is done with it

    def versions(self, length: int) -> list[int]:
        """Of each token."""
        found = [self.version] * length
        for first, version in self.changes:
            found[first:] = [version] * max(0, length - first)
        return found


class Versions:
    """The requests that are under way at one engine. While it loads, none begins and none is taken for done: an answer that comes then may
    hold tokens of either weights."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._name, self._made, self._epoch = f"keel{secrets.token_hex(6)}", 0, 0
        self.version, self.digest = 0, ""

    @contextmanager
    def begun(self) -> Iterator[Ticket]:
        """A request from its beginning to its end."""
        with self._turn:
            self._made += 1
            ticket = Ticket(f"{self._name}n{self._made}n", self.version, self.digest, self._epoch)
            self._tickets[ticket.name] = ticket
        try:
            yield ticket
        finally:
            with self._turn:
                self._tickets.pop(ticket.name, None)

    def told(self, ticket: Ticket, length: int) -> list[int]:
        """Versions of the tokens of a request that is done. Raises EngineError where a load went wrong in the meantime."""
        with self._turn:
            if ticket.epoch != self._epoch:
                raise EngineError("new weights came in and were not acknowledged: what was under way is drawn again")
            return ticket.versions(length)

    def load(self, version: int, take: Callable[[], tuple[str, Mapping[str, int], Collection[str]]]) -> str:
        """Let ``take`` bring new weights in: it returns their digest, how many tokens each request under way had by then, and which were
        over; names are the engine's own, in which ours stand. Returns the digest."""
        with self._turn:
            self.digest = ""
            try:
                digest, drawn, ended = take()
            except BaseException:
                self._epoch += 1
                raise
            for ticket in self._tickets.values():
                ticket.over = ticket.over or any(ticket.name in name for name in ended)
                if ticket.over:
                    continue
                first = max((n for name, n in drawn.items() if ticket.name in name), default=0)
                ticket.changes.append((first, version))
            self.version, self.digest = version, digest
            return digest

    def renumber(self, digest: str, version: int) -> bool:
        """The weights here are these, and from now on this is their number; False where others are here."""
        with self._turn:
            if digest == self.digest:
                self.version = version
            return digest == self.digest

    def still(self, ask: Callable[[], str]) -> bool:
        """Does the engine say that it has the weights that were put there?"""
        with self._turn:
            return bool(self.digest) and ask() == self.digest
