"""Events: everything that happens in a run, as one frozen record. Sinks take them and never stop a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Event:
    """``kind`` is one of: ``run_started``, ``resumed``, ``step`` (data: metrics), ``eval`` (data: metrics), ``checkpoint``, ``sample``,
    ``warning``, ``verdict``, ``emergency`` (a limit was crossed, the run went back), ``phase`` (one begins), ``self_test``,
    ``stage_started``, ``stage_finished``, ``interrupted``, ``run_finished``."""

    kind: str
    step: int
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    message: str = ""


class Sink(Protocol):
    """Takes events. May fail: the bus catches, says so once, and goes on without it."""

    def handle(self, event: Event) -> None: ...

    def close(self) -> None: ...


class EventBus:
    """Hands each event to every sink. A sink that raises is dropped with one warning; the run goes on."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks: list[Sink] = list(sinks)

    def emit(self, kind: str, step: int, message: str = "", **data: Any) -> None:
        event = Event(kind, step, data, message)
        for sink in list(self._sinks):
            try:
                sink.handle(event)
            except Exception as error:  # a tracker that is down must not cost a run
                self._sinks.remove(sink)
                log.warning("sink %s failed and was dropped, the run goes on: %s", type(sink).__name__, error)

    def close(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                log.warning("sink %s failed to close: %s", type(sink).__name__, error)
        self._sinks.clear()
