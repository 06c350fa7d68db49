"""The metrics of a run as columns: a side file that spares reading ``metrics.jsonl``, which alone is the record.

``columns/`` of a run directory holds blocks of `BLOCK` rows, each with the bytes of ``metrics.jsonl`` that it stands for and their
checksum. A block is never changed. What does not fit what stands in ``metrics.jsonl`` now (the run went back, the file was put back from
elsewhere) is not used and made anew, so the folder may be deleted at any time. The last rows are never in a block: the run may still add
to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from keel.runs import logs
from keel.runs.directory import COLUMNS
from keel.runs.durable import write_atomic

BLOCK = 1024  # rows
_PLAIN = {float}
_MAGIC = b"keel columns 1\n"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Column:
    """One metric in one block: the rows that have it, and its values there."""

    at_K: NDArray[np.int64]
    values_K: Floats


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of ``metrics.jsonl`` as columns. ``first``: rows before it; ``start`` and ``end``: its bytes in the file, ``crc``: their
    checksum."""

    first: int
    start: int
    end: int
    crc: int
    left_out: int  # lines that are no row
    steps_R: Floats
    columns: Mapping[str, Column]


@dataclass(frozen=True)
class Columns:
    """All metrics of a run. A row without a step has its number (from 1) as step."""

    blocks: tuple[Block, ...] = ()

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Columns:
        """Rows that are there, as columns."""
        return cls((_block(list(rows), 0, 0, 0, 0, 0),))

    def __len__(self) -> int:
        return sum(len(block.steps_R) for block in self.blocks)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of metrics, in the order in which they first came."""
        return tuple(dict.fromkeys(name for block in self.blocks for name in block.columns))

    @property
    def left_out(self) -> int:
        """Lines that are no row: torn by a crash."""
        return sum(block.left_out for block in self.blocks)

    def points(self, name: str) -> tuple[Floats, Floats]:
        """(steps [K], values [K]) of a metric where a row has it, in the order of rows; values may be NaN or infinite."""
        found = [(block.steps_R[column.at_K], column.values_K) for block in self.blocks if (column := block.columns.get(name)) is not None]
        if not found:
            return np.empty(0), np.empty(0)
        return np.concatenate([steps for steps, _ in found]), np.concatenate([values for _, values in found])


def load(path: Path) -> Columns:
    """The columns of a run's ``metrics.jsonl``, whole and as it is now; empty where it is not there. Blocks that are missing are made, and
    kept where the folder can be written to. Safe beside a run that writes: a row that it adds meanwhile is there or is not."""
    if not path.is_file():
        return Columns()
    blocks: list[Block] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for stored in _stored(path):
            block = _read(stored)
            if block is None or (block.first, block.start) != _behind(blocks) or not _stands_for(block, file, size):
                break
            blocks.append(block)
        known = len(blocks)
        blocks += _parsed(file, *_behind(blocks), size)
    _keep(path, blocks, known)
    return Columns(tuple(blocks))


def seal(path: Path) -> None:
    """Make the blocks that ``path`` has rows for. For the process that writes it: reads what came since the last block, no more."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        made = _parsed(file, *_behind(_last_that_fits(path, file, size)), size)
    for block in made[:-1]:
        _write(path, block)


def stored(path: Path, first: int, start: int) -> Block | None:
    """The block that is kept for the rows of ``path`` from byte ``start`` on, ``first`` rows being before it; None where there is none that
    stands for what is in the file. For who reads a long file piece by piece and writes nothing."""
    block = _read(_folder(path) / _name(start))
    if block is None or (block.first, block.start) != (first, start):
        return None
    try:
        with path.open("rb") as file:
            return block if _stands_for(block, file, os.fstat(file.fileno()).st_size) else None
    except OSError:
        return None


def has_block(path: Path, start: int) -> bool:
    """Is a block kept that begins there?"""
    return (_folder(path) / _name(start)).is_file()


def block_of(rows: Sequence[Mapping[str, Any]], first: int) -> Block:
    """Rows as columns, ``first`` rows being before them."""
    return _block(rows, first, 0, 0, 0, 0)


def _behind(blocks: Sequence[Block]) -> tuple[int, int]:
    """(rows, bytes) up to the end of these blocks."""
    return (blocks[-1].first + len(blocks[-1].steps_R), blocks[-1].end) if blocks else (0, 0)


def _stands_for(block: Block, file: BinaryIO, size: int) -> bool:
    """Are these the bytes that stand in the file?"""
    file.seek(block.start)
    return block.end <= size and zlib.crc32(file.read(block.end - block.start)) == block.crc


def _last_that_fits(path: Path, file: BinaryIO, size: int) -> list[Block]:
    """The last block that stands for bytes of the file, if there is one; later ones are removed."""
    stored = _stored(path)
    while stored:
        block = _read(stored[-1])
        if block is not None and _stands_for(block, file, size):
            return [block]
        stored.pop().unlink(missing_ok=True)
    return []


def _parsed(file: BinaryIO, first: int, start: int, size: int) -> list[Block]:
    """The file from byte ``start`` on, ``first`` rows being before it, as blocks. All but the last are full."""
    file.seek(start)
    made: list[Block] = []
    rows: list[Mapping[str, Any]] = []
    at, crc, broken = start, 0, 0
    for line in file:
        if at + len(line) > size:
            break  # came while this was read
        row = logs.parse(line)
        if row is not None:
            if len(rows) == BLOCK:
                made.append(_block(rows, first, start, at, crc, broken))
                first, rows, start, crc, broken = first + BLOCK, [], at, 0, 0
            rows.append(row)
        broken += row is None and bool(line.strip())
        at, crc = at + len(line), zlib.crc32(line, crc)
    return [*made, _block(rows, first, start, at, crc, broken)]


def _block(rows: Sequence[Mapping[str, Any]], first: int, start: int, end: int, crc: int, left_out: int) -> Block:
    steps = [step if (step := logs.number(row.get("step"))) is not None else float(first + i + 1) for i, row in enumerate(rows)]
    every = np.arange(len(rows))
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        values = [row.get(name) for row in rows]
        if set(map(type, values)) == _PLAIN:  # most are, and this is fast
            columns[name] = Column(every, np.array(values, np.float64))
        elif found := [(i, number) for i, value in enumerate(values) if (number := logs.number(value)) is not None]:
            columns[name] = Column(np.array([i for i, _ in found], np.int64), np.array([number for _, number in found], np.float64))
    return Block(first, start, end, crc, left_out, np.array(steps, np.float64), columns)


# -- files -----------------------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Path:
    return path.with_name(COLUMNS)


def _name(start: int) -> str:
    return f"{start:015d}.block"


def _stored(path: Path) -> list[Path]:
    return sorted(_folder(path).glob("*.block"))


def _keep(path: Path, blocks: Sequence[Block], known: int) -> None:
    """Write the full blocks that are new, remove those that do not fit. What cannot be written is made again by the next who reads."""
    with contextlib.suppress(OSError):
        for old in _stored(path)[known:]:
            old.unlink(missing_ok=True)
        for block in blocks[known:-1]:
            _write(path, block)


def _write(path: Path, block: Block) -> None:
    """A block under a name of its own, in one move; two processes that make the same block do no harm to each other."""
    folder = _folder(path)
    folder.mkdir(exist_ok=True)
    rows = len(block.steps_R)
    shape = [(name, len(column.at_K)) for name, column in block.columns.items()]
    parts: list[bytes] = [block.steps_R.tobytes()]
    for column in block.columns.values():
        parts += [column.values_K.tobytes()] if len(column.at_K) == rows else [column.at_K.tobytes(), column.values_K.tobytes()]
    payload = b"".join(parts)
    place = {"first": block.first, "start": block.start, "end": block.end, "crc": block.crc}
    header = json.dumps({**place, "left_out": block.left_out, "rows": rows, "columns": shape}).encode()
    content = len(header).to_bytes(8, "little") + header + payload
    write_atomic(folder / _name(block.start), _MAGIC + zlib.crc32(content).to_bytes(8, "little") + content, sync=False)


def _read(stored: Path) -> Block | None:
    """A block; None for one that is not whole."""
    try:
        data = stored.read_bytes()
    except OSError:
        return None
    sums, begin = len(_MAGIC) + 8, len(_MAGIC) + 16
    whole = len(data) >= begin and data[: len(_MAGIC)] == _MAGIC
    if not whole or zlib.crc32(data[sums:]) != int.from_bytes(data[len(_MAGIC) : sums], "little"):
        return None
    end = begin + int.from_bytes(data[sums:begin], "little")
    return _of_payload(json.loads(data[begin:end]), data[end:])


def _of_payload(header: Mapping[str, Any], payload: bytes) -> Block:
    rows: int = header["rows"]
    arrays = iter(_split(payload, [n for _, k in header["columns"] for n in ([k] if k == rows else [k, k])], rows))
    steps_R = next(arrays)
    every = np.arange(rows)
    columns: dict[str, Column] = {}
    for name, k in header["columns"]:
        at_K = every if k == rows else next(arrays).view(np.int64)
        columns[name] = Column(at_K, next(arrays))
    place = (header["first"], header["start"], header["end"], header["crc"])
    return Block(*place, header["left_out"], steps_R, columns)


def _split(payload: bytes, lengths: Sequence[int], rows: int) -> Iterator[Floats]:
    whole = np.frombuffer(payload, np.float64)
    at = 0
    for n in (rows, *lengths):
        yield whole[at : at + n]
        at += n
