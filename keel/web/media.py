"""Pictures by the hash of their bytes: taken in when tasks come, served by hash alone. No response names a path."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from keel.core.errors import DataError
from keel.feedback.db import Store
from keel.feedback.exchange import files
from keel.types import Candidate, ImagePart, Message, Task

log = logging.getLogger("keel")
DIGEST = re.compile(r"[0-9a-f]{64}")
_LARGEST = 64 << 20
_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}


def mime_of(head: bytes) -> str:
    """The kind of picture by its first bytes; empty for anything else. SVG is none: it can hold scripts."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""


class Media:
    """The pictures of a store in a folder. Any thread may call any method."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self._known: dict[str, str] = {}  # source -> digest, "" when it cannot be shown
        self._gate = threading.Lock()

    def add(self, content: bytes, where: str) -> str:
        """Keep a picture; returns its digest. Raises DataError naming ``where`` for what is no picture."""
        mime, digest = _mime(content, where), _sha256(content)
        target = self._place(digest, mime)
        if not target.exists():
            files.write_bytes(target, content)
        self.store.add_media(digest, str(target), mime)
        return digest

    def take_in(self, task: Task, base: Path, where: str) -> Task:
        """The task with its pictures in the folder, each under its hash. Raises DataError for one that cannot be read."""

        def moved(part: ImagePart) -> ImagePart:
            digest = self.add(self._content(part.source, base, where), where)
            mime = (self.store.media(digest) or ("", "image/png"))[1]
            path = str(self._place(digest, mime).resolve())
            self._known[path] = digest
            return ImagePart(path)

        return _with_images(task, moved)

    def check(self, task: Task, base: Path, where: str) -> None:
        """Could `take_in` take its pictures? Keeps nothing. Raises DataError as `add` and `take_in` would."""
        for source in sources_of(task):
            _mime(self._content(source, base, where), where)

    def by_digest(self, task: Task, base: Path = Path()) -> Task | None:
        """The task with the digest of each picture as its source, to be compared; None when one of them cannot be read."""
        try:
            return _with_images(task, lambda part: ImagePart(self._named(part.source) or _sha256(_read(part.source, base, "a picture"))))
        except DataError:
            return None

    @staticmethod
    def without(task: Task) -> Task:
        """The task with pictures that say nothing."""
        return _with_images(task, lambda _: ImagePart(""))

    def _content(self, source: str, base: Path, where: str) -> bytes:
        """The bytes of a picture; those of this folder also after it was moved."""
        try:
            return _read(source, base, where)
        except DataError:
            kept = self.file(self._named(source))
            if kept is None:
                raise
            return kept[0].read_bytes()

    def _named(self, source: str) -> str:
        """The digest that a file of this folder is named by, wherever the folder is now; empty for any other source."""
        stem = "" if source.startswith("data:") else Path(source).stem
        return stem if self.file(stem) is not None else ""

    def digest_of(self, source: str) -> str:
        """The digest of a picture by its source in a task; empty when it cannot be shown (logged once)."""
        found = self._known.get(source)
        if found is None and (named := self._named(source)):
            found = self._known[source] = named
        if found is None:
            with self._gate:
                try:
                    found = self.add(_read(source, Path(), "a picture of a task"), "a picture of a task")
                except (DataError, OSError) as error:
                    log.warning("a picture cannot be shown: %s", error)
                    found = ""
                self._known[source] = found
        return found

    def knows(self, source: str) -> bool:
        """Can `digest_of` answer without reading a file?"""
        return source in self._known

    def file(self, digest: str) -> tuple[Path, str] | None:
        """(path, mime) of a picture that may be served."""
        if not DIGEST.fullmatch(digest):
            return None
        known = self.store.media(digest)
        if known is None or known[1] not in _SUFFIX:
            return None
        places = (Path(known[0]), self._place(digest, known[1]))  # the second: the folder was moved
        return next(((path, known[1]) for path in places if path.is_file()), None)

    def _place(self, digest: str, mime: str) -> Path:
        return self.folder / digest[:2] / f"{digest}{_SUFFIX[mime]}"


def sources_of(task: Task) -> list[str]:
    """The sources of all pictures of a task, in order."""
    return images_of([*task.prompt.messages, *(m for c in task.candidates for m in c.turns)])


def images_of(messages: Iterable[Message]) -> list[str]:
    """The sources of all pictures, in order."""
    return [p.source for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]


def _with_images(task: Task, change: Callable[[ImagePart], ImagePart]) -> Task:
    def turn(message: Message) -> Message:
        if isinstance(message.content, str):
            return message
        return replace(message, content=tuple(change(p) if isinstance(p, ImagePart) else p for p in message.content))

    def candidate(c: Candidate) -> Candidate:
        return replace(c, turns=tuple(map(turn, c.turns))) if c.turns else c

    prompt = replace(task.prompt, messages=tuple(map(turn, task.prompt.messages)))
    return replace(task, prompt=prompt, candidates=tuple(map(candidate, task.candidates)))


def _read(source: str, base: Path, where: str) -> bytes:
    """The bytes of a ``data:`` URL or a file. Raises DataError."""
    if source.startswith("data:"):
        head, comma, body = source.partition(",")
        if not comma or not head.endswith(";base64"):
            raise DataError(f"{where}: a data: URL of a picture must be base64")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"{where}: a data: URL holds no base64") from None
    if "://" in source:
        raise DataError(f"{where}: the picture {source[:100]} is not a file", "fetch it first: the server loads nothing from elsewhere")
    path = base / source
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{where}: the picture {source} is larger than {_LARGEST >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: the picture {source} cannot be read: {error}") from None


def _mime(content: bytes, where: str) -> str:
    """Raises DataError naming ``where`` for what is no picture."""
    mime = mime_of(content[:16])
    if not mime:
        raise DataError(f"{where}: is no PNG, JPEG, GIF or WebP picture", "convert it, or leave it out")
    return mime


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
