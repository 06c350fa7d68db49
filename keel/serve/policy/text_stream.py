"""Token ids of a growing answer -> the text that is certain by now: whole characters, and nothing that may belong to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
_BROKEN = "\ufffd"


class TextStream:
    """All pieces joined are the decoded answer up to the first stop string, which is not part of it."""

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        """``decode``: ids -> text without special tokens."""
        self._decode, self._stop = decode, tuple(stop)
        self._ids: list[int] = []
        self._from = 0  # decoding begins here: far enough back that a token's text does not change any more
        self._to = 0  # the text of the ids before this one has been taken
        self._held = ""  # taken, and not told: it may be the beginning of a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """What the new token makes certain. After a stop string ``stopped`` is true, and there is nothing more."""
        self._ids.append(token)
        return self._tell(self._grown(final=False), final=False)

    def finish(self) -> str:
        """The rest, when no token follows."""
        return self._tell(self._grown(final=True), final=True)

    def _grown(self, final: bool) -> str:
        before = self._decode(self._ids[self._from : self._to])
        now = self._decode(self._ids[self._from :])
        if len(now) <= len(before) or (now.endswith(_BROKEN) and not final):
            return ""
        self._from, self._to = self._to, len(self._ids)
        return now[len(before) :]

    def _tell(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if final else overlap(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, marks: Sequence[str]) -> int:
    """How many of the last characters of ``text`` may be the beginning of one of the ``marks``."""
    longest = max((len(mark) for mark in marks), default=1) - 1
    for n in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[len(text) - n :]) for mark in marks if len(mark) > n):
            return n
    return 0
