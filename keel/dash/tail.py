"""A growing file of JSON lines, read from where one stopped."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
_LONGEST = 64 << 20  # bytes of one line; a longer one is left out
_SEEN = 512  # bytes before the cursor that tell whether the file is still the one that was read


class Tail:
    """Whole lines of ``path`` behind ``cursor`` (bytes). A last line without its end is left for the next time. After the file was cut or
    written anew ``again`` is true and reading begins at its beginning.

    A cursor from elsewhere (a page that comes back) is believed where it stands behind the end of a line.
    """

    def __init__(self, path: Path, cursor: int = 0) -> None:
        self.path, self.cursor = path, max(0, cursor)
        self.again = False
        self.left_out = 0  # lines too long to hold
        self.size = 0  # of the file, when it was last looked at
        self._at = (0, 0, -1, 0)  # device, inode, size, time of writing: when it was last looked at
        self._seen: int | None = None

    def lines(self, most: int = CHUNK) -> list[tuple[int, bytes]]:
        """New lines, each with the byte at which it begins; about ``most`` bytes of them at a time."""
        self.again = False
        try:
            found = self.path.stat()
        except OSError:  # not there yet, or being replaced
            return []
        at = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        self.size = found.st_size
        if at == self._at and self.cursor + self._open_end >= found.st_size:
            return []
        try:
            with self.path.open("rb") as file:
                self._check(file, found.st_size)
                return self._read(file, most)
        except OSError:
            return []
        finally:
            self._at = at

    @property
    def behind(self) -> int:
        """Bytes that were there and not read, as far as it is known."""
        return max(0, self.size - self.cursor - self._open_end)

    _open_end = 0  # bytes of a last line that is not whole

    def _check(self, file: BinaryIO, size: int) -> None:
        whole = self.cursor == 0 or (self.cursor <= size and self._same(file))
        if not whole:
            self.again, self.cursor = True, 0

    def _same(self, file: BinaryIO) -> bool:
        start = max(0, self.cursor - _SEEN)
        file.seek(start)
        before = file.read(self.cursor - start)
        return before.endswith(b"\n") and (self._seen is None or zlib.crc32(before) == self._seen)

    def _read(self, file: BinaryIO, most: int) -> list[tuple[int, bytes]]:
        file.seek(self.cursor)
        data = file.read(most)
        while data and b"\n" not in data and len(data) < _LONGEST and (more := file.read(max(most, len(data)))):
            data += more
        end = data.rfind(b"\n") + 1
        self._open_end = 0
        if not end:
            if len(data) >= _LONGEST:
                self._skip(file)
            else:
                self._open_end = len(data)
            return []
        if len(data) < most:
            self._open_end = len(data) - end
        found = list[tuple[int, bytes]]()
        at = self.cursor
        for line in data[:end].split(b"\n")[:-1]:
            found.append((at, line))
            at += len(line) + 1
        self.move(file, at)
        return found

    def _skip(self, file: BinaryIO) -> None:
        self.left_out += 1
        while piece := file.read(CHUNK):
            cut = piece.find(b"\n")
            if cut >= 0:
                self.move(file, file.tell() - len(piece) + cut + 1)
                return
        self._open_end = os.fstat(file.fileno()).st_size - self.cursor

    def move(self, file: BinaryIO, cursor: int) -> None:
        """Go on from ``cursor``, the end of a line."""
        self.cursor = cursor
        start = max(0, cursor - _SEEN)
        file.seek(start)
        self._seen = zlib.crc32(file.read(cursor - start))
