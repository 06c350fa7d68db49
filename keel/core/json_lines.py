"""The lines of a file of JSON lines. A row ends at a line feed and nowhere else: JSON lets U+2028, U+2029 and NEL stand in a text as
they are, where ``str.splitlines`` and readers of streams over it cut the row in two."""

from __future__ import annotations

from collections.abc import AsyncIterator


def lines_of(text: str) -> list[str]:
    """The lines, in order and without their ends; the i-th is line i + 1 of the file. An end at the end of the text begins no new one."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


async def lines_in(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The lines of a stream in UTF-8 that comes in pieces of any size, each when it is whole; the last one needs no end."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")
