"""Events: everything that happens in a run, as one frozen record. Sinks take them and never stop a run."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Event:
    """``kind`` is one of: ``run_started``, ``resumed``, ``step`` (data: metrics), ``eval`` (data: metrics), ``checkpoint``, ``sample``,
    ``warning`` (a rule speaks), ``verdict`` (one that acts), ``resolved`` (it is over), ``emergency`` (the run went back), ``adjusted``
    (another learning rate or price of the KL), ``recovery`` (they come back), ``paused``, ``phase`` (one begins), ``self_test``,
    ``stage_started``, ``stage_finished``, ``interrupted``, ``run_finished``."""

    kind: str
    step: int
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    message: str = ""
    at: float = 0.0  # wall-clock time, in seconds since 1970; for people, it decides nothing
    number: int = 0  # of the run's events, from 1, steps left out (0)
    id: str = ""  # the same number never has another one


class Sink(Protocol):
    """Takes events. May fail: the bus catches it, keeps the event and tries again later. A class whose attribute ``essential`` is true is
    tried again at every event, and nothing that it missed is ever given up."""

    def handle(self, event: Event) -> None: ...

    def close(self) -> None: ...


MOST_WAITING = 1000  # events that are kept for a tracker that is down; older ones are given up, and counted
LONGEST_PAUSE = 1024  # events between two tries


@dataclass(slots=True)
class _Delivery:
    """What a sink has missed. After the k-th failure in a row it is tried again 2^k events later: a time-out costs little, and a sink that
    always fails is asked so seldom that it cannot slow a run. Counted in events, not in seconds, so that runs stay alike."""

    sink: Sink
    waiting: deque[Event] = field(default_factory=deque[Event])
    in_a_row: int = 0
    pause: int = 0  # events until the next try
    failures: int = 0
    lost: int = 0
    last: str = ""

    @property
    def name(self) -> str:
        return type(self.sink).__name__

    @property
    def essential(self) -> bool:
        return bool(getattr(self.sink, "essential", False))

    def take(self, event: Event) -> None:
        self.waiting.append(event)
        if self.pause > 0:
            self.pause -= 1
        else:
            self.deliver()
        if not self.essential and len(self.waiting) > MOST_WAITING:
            self.waiting.popleft()
            self.lost += 1

    def deliver(self) -> None:
        """All that waits, in order, until one fails."""
        while self.waiting:
            try:
                self.sink.handle(self.waiting[0])
            except Exception as error:  # a tracker that is down must not cost a run
                self._failed(error)
                return
            self.waiting.popleft()
            self.in_a_row = 0

    def _failed(self, error: Exception) -> None:
        self.failures, self.in_a_row = self.failures + 1, self.in_a_row + 1
        self.last = f"{type(error).__name__}: {error}"
        self.pause = 0 if self.essential else min(2**self.in_a_row, LONGEST_PAUSE) - 1
        if self.failures == 1:
            log.warning("sink %s failed, the run goes on and tries it again: %s", self.name, self.last)

    def close(self) -> None:
        self.deliver()
        if self.failures:
            missed = self.lost + len(self.waiting)
            text = f"{missed} events never got there" if missed else "all events got there in the end"
            log.warning("sink %s failed %d times, %s; the last time: %s", self.name, self.failures, text, self.last)
        try:
            self.sink.close()
        except Exception as error:
            log.warning("sink %s failed to close: %s", self.name, error)


class EventBus:
    """Hands each event to every sink, in order. What a sink fails to take waits for it and is handed over again; the run goes on."""

    def __init__(self, sinks: Sequence[Sink] = (), run: str = "", last: int = 0) -> None:
        """``run``: what makes ids differ between runs; ``last``: the number of the last event that was written before."""
        self._deliveries = [_Delivery(sink) for sink in sinks]
        self._run, self._number = run, last

    def add(self, sink: Sink) -> None:
        """One more, which takes what happens from now on."""
        self._deliveries.append(_Delivery(sink))

    def emit(self, kind: str, step: int, message: str = "", **data: Any) -> Event:
        number = 0 if kind == "step" else self._number + 1
        self._number = max(self._number, number)
        name = hashlib.blake2b(f"{self._run} {number}".encode(), digest_size=8).hexdigest() if number else ""
        event = Event(kind, step, data, message, time.time(), number, name)
        for delivery in self._deliveries:
            delivery.take(event)
        return event

    def close(self) -> None:
        """Hand over what still waits, say what never got there, close the sinks."""
        for delivery in self._deliveries:
            delivery.close()
        self._deliveries.clear()
