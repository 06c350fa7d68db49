"""Images on their way to the ranks. Each rank gets the pixels of all units that the ranks are handed, for which of them it is dealt is
decided there; it gets them once, and keeps them as long as there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from keel.learner.packing import with_contrasts
from keel.models.media import MediaStore, media_bytes
from keel.types import Unit

_MESSAGE = 64 << 20  # bytes of pixels in one command
_ROOM = 2 << 30  # bytes for a store that has no bound itself


class Shown:
    """What every rank holds of images: all of them the same, for the driver alone decides what comes and what goes."""

    def __init__(self, call: Callable[..., Any]) -> None:
        """``call`` lets all ranks do a command."""
        self._call = call
        self._held: OrderedDict[str, int] = OrderedDict()  # bytes by digest, the least recently asked first

    @property
    def held(self) -> Mapping[str, int]:
        """Bytes of pixels that each rank holds, by digest."""
        return self._held

    def bring(self, units: Sequence[Unit], media: MediaStore) -> None:
        """Have the ranks hold the images of ``units``, however many there are. Raises ModelError as ``media.get``."""
        for _ in self.parts(units, media, whole=True):
            pass

    def parts(self, units: Sequence[Unit], media: MediaStore, whole: bool = False) -> Iterator[Sequence[Unit]]:
        """``units`` in order, in as few parts as have room for their images (all in one where ``whole``); those of a part are on the ranks
        when it is handed out. Raises ModelError as ``media.get``."""
        room = media.max_bytes or _ROOM
        part: list[Unit] = []
        asked: dict[str, Mapping[str, Tensor] | None] = {}  # of the part: pixels that the ranks lack, None for what they have
        size = 0

        def lacking(unit: Unit) -> dict[str, Mapping[str, Tensor] | None]:
            digests = (ref.digest for x in with_contrasts([unit]) for ref in x.prompt.media)
            return {d: None if d in self._held else media.get(d) for d in digests if d not in asked}

        def of(found: Mapping[str, Mapping[str, Tensor] | None]) -> int:
            return sum(self._held[d] if own is None else media_bytes(own) for d, own in found.items())

        for unit in units:
            more = lacking(unit)
            if part and not whole and size + of(more) > room:
                self._send(asked, media, room)
                yield part
                part, asked, size = [], {}, 0
                more = lacking(unit)
            part.append(unit)
            asked |= more
            size += of(more)
        self._send(asked, media, room)
        yield part

    def _send(self, asked: Mapping[str, Mapping[str, Tensor] | None], media: MediaStore, room: int) -> None:
        """Show the ranks what they lack, and let them forget what the driver has let go, and what has no room beside ``asked``."""
        new = {digest: own for digest, own in asked.items() if own is not None}
        for digest in asked:
            if digest in self._held:
                self._held.move_to_end(digest)
        total = sum(self._held.values()) + sum(map(media_bytes, new.values()))
        gone: list[str] = []
        for digest in [d for d in self._held if d not in asked]:
            if total > room or digest not in media:
                total -= self._held.pop(digest)
                gone.append(digest)
        if gone:
            self._call("forget", gone)
        message: dict[str, Mapping[str, Tensor]] = {}
        size = 0
        for i, (digest, own) in enumerate(new.items(), 1):
            message[digest] = own
            size += media_bytes(own)
            if i == len(new) or size >= _MESSAGE:
                self._call("show", message)
                self._held |= {d: media_bytes(p) for d, p in message.items()}
                message, size = {}, 0
