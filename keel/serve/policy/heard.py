"""What was said of one answer so far: a client that does not know whether it was heard says the same again, and that is not said twice."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

from keel.serve.policy.requests import RequestError

K = TypeVar("K")
V = TypeVar("V")
_MOST = 256  # words on one answer that are remembered
_SPACE = uuid.UUID("3b1c1f5e-9d0a-5f0e-8a51-6c0f2f4f7d11")


@dataclass(slots=True)
class Heard:
    """``lock``: held while something is stored, so that two sendings at one time are one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _last: OrderedDict[str, tuple[str, int]] = field(default_factory=OrderedDict[str, tuple[str, int]])  # by rater: content, its number
    _done: OrderedDict[str, tuple[str, str]] = field(
        default_factory=OrderedDict[str, tuple[str, str]]
    )  # by id: who said what, what is stored

    def event(self, answer_id: str, rater: str, content: str, given: str) -> str:
        """The id of a word: ``given`` by the client, or one that follows from answer, rater and content. Somebody who says up, down, up
        again has said three things: the number of the change is part of the id."""
        if given:
            return given
        before, number = self._last.get(rater, ("", -1))
        return str(uuid.uuid5(_SPACE, json.dumps([answer_id, rater, content, number if before == content else number + 1])))

    def told(self, event: str, rater: str, content: str) -> str | None:
        """What was stored when this event was heard before; None where it is new. Raises RequestError (409) for one with other content."""
        if event not in self._done:
            return None
        before, stored = self._done[event]
        if before != rater + content:
            raise RequestError("this id stands for something else that was said", "event_id", 409, "conflict")
        return stored

    def add(self, event: str, rater: str, content: str, stored: str) -> None:
        """It was heard, and all that follows from it is done."""
        before, number = self._last.get(rater, ("", -1))
        _keep(self._last, rater, (content, number if before == content else number + 1))
        _keep(self._done, event, (rater + content, stored))


def _keep(kept: MutableMapping[K, V], key: K, value: V) -> None:
    kept.pop(key, None)  # the newest stands last
    kept[key] = value
    while len(kept) > _MOST:
        del kept[next(iter(kept))]
