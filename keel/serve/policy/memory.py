"""Answers that can still be spoken of: kept in memory, for a while, and never written anywhere by themselves."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from keel.serve.policy.frames import Row
from keel.serve.policy.heard import Heard


@dataclass(frozen=True, slots=True)
class Served:
    """One request with its answers. ``texts``: as the model wrote them, calls of tools included; ``finishes``: what ended each."""

    answer_id: str
    row: Row
    texts: tuple[str, ...]
    finishes: tuple[str, ...]
    arm: str
    model: str
    at: float
    key: str = ""  # by which the arm was chosen
    heard: Heard = field(default_factory=Heard, compare=False)  # what was said of it


@dataclass(frozen=True, slots=True)
class Said:
    """What a user says of an answer: a thumb, or the answer as it should have been. ``consent`` as it was given."""

    kind: str  # thumb, edit
    choice: int
    up: bool = False
    edit: str = ""
    by: str = ""
    reason: str = ""
    consent: Mapping[str, Any] = field(default_factory=dict[str, Any])
    event_id: str = ""  # the client's own

    @property
    def rater(self) -> str:
        """Who says what kind of thing of which of the answers: the last word of each counts."""
        return json.dumps([self.choice, self.kind, self.by])

    @property
    def content(self) -> str:
        """All that is said, as a text to compare."""
        return json.dumps([self.up, self.edit, self.reason, self.consent], sort_keys=True)


class Votes(Protocol):
    """Where feedback is kept."""

    def keep(self, served: Served, said: Said, event: str) -> str:
        """Store it under this id, once however often, and return the id. Raises UserError. Called on a thread."""
        ...


class Memory:
    """The last answers, by id."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._kept: OrderedDict[str, Served] = OrderedDict()

    def add(self, served: Served) -> None:
        self._kept[served.answer_id] = served
        while len(self._kept) > self._most or (self._kept and self._old(next(iter(self._kept.values())))):
            self._kept.popitem(last=False)

    def get(self, answer_id: str) -> Served | None:
        found = self._kept.get(answer_id)
        return None if found is None or self._old(found) else found

    def _old(self, served: Served) -> bool:
        return self._clock() - served.at > self._seconds

    def now(self) -> float:
        return self._clock()
