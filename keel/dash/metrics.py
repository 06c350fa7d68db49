"""Metrics of a run as columns in memory: 4 bytes a number, read in pieces, so that a page can be answered while a long file is read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keel.dash.tail import Tail
from keel.runs import columns, logs

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
PREVIEW = 400  # rows that stand for a long file until it is read
_FIRST, _PIECE = 256, 4096  # numbers that a column has room for at first, and those that each further piece has
_READ = 1 << 18  # bytes that are read at a time


class Grown:
    """An array that grows at its end, in pieces: nothing is copied when it grows, so that little memory is lost."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._pieces: list[NDArray[np.generic]] = [np.empty(_FIRST, kind)]
        self.n, self._room = 0, _FIRST

    def add(self, values_K: NDArray[np.generic]) -> None:
        done = 0
        while done < len(values_K):
            if self.n == self._room:
                self._pieces.append(np.empty(_PIECE, self._pieces[0].dtype))
                self._room += _PIECE
            last = self._pieces[-1]
            start = len(last) - (self._room - self.n)
            took = min(self._room - self.n, len(values_K) - done)
            last[start : start + took] = values_K[done : done + took]
            self.n, done = self.n + took, done + took

    @property
    def values(self) -> NDArray[np.generic]:
        n = self.n  # first: pieces may be added meanwhile, never taken away
        return np.concatenate(self._pieces)[:n] if len(self._pieces) > 1 else self._pieces[0][:n]

    @property
    def nbytes(self) -> int:
        return self._room * self._pieces[0].itemsize


class Column:
    """One metric: which rows have it, and its values there."""

    def __init__(self, first: int) -> None:
        self.first, self.last = first, first - 1
        self.at: Grown | None = None  # rows, kept only where some lack it between two that have it
        self.values = Grown(np.float32)

    def add(self, at_K: NDArray[np.int64], values_K: NDArray[np.generic]) -> None:
        dense = int(at_K[0]) == self.last + 1 and int(at_K[-1]) - int(at_K[0]) + 1 == len(at_K)
        if self.at is None and not dense:
            self.at = Grown(np.uint32)
            self.at.add(np.arange(self.first, self.last + 1))
        if self.at is not None:
            self.at.add(at_K)
        self.values.add(values_K)
        self.last = int(at_K[-1])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (self.at.nbytes if self.at else 0)


class Metrics:
    """The columns of one file. ``generation`` changes when the file was cut or written anew and all is read again."""

    def __init__(self, path: Path) -> None:
        self.path, self.generation = path, 0
        self._tail = Tail(path)
        self._clear()

    def _clear(self) -> None:
        self.steps = Grown(np.float64)
        self.columns: dict[str, Column] = {}
        self.left_out = 0  # lines that are no row

    def __len__(self) -> int:
        return self.steps.n

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    def cursor(self) -> int:
        return self._tail.cursor

    @property
    def size(self) -> int:
        return self._tail.size

    @property
    def share(self) -> float:
        """How much of the file is read, 0 to 1."""
        return self._tail.cursor / max(1, self._tail.size) if self._tail.behind or not self._tail.size else 1.0

    @property
    def nbytes(self) -> int:
        return self.steps.nbytes + sum(column.nbytes for column in list(self.columns.values()))

    def points(self, name: str) -> tuple[Floats, Singles]:
        """(steps [K], values [K]) of a metric where a row has it; values may be NaN or infinite."""
        column = self.columns.get(name)
        if column is None:
            return np.empty(0), np.empty(0, np.float32)
        values_K: Singles = column.values.values  # type: ignore[assignment]
        steps_R: Floats = self.steps.values  # type: ignore[assignment]
        if column.at is None:
            return steps_R[column.first : column.first + len(values_K)], values_K
        return steps_R[column.at.values[: len(values_K)]], values_K  # type: ignore[index]

    def advance(self, seconds: float = float("inf")) -> bool:
        """Read on, for about so long; true when there is nothing more."""
        end = time.monotonic() + seconds
        while True:
            if not self._stored() and not self._parsed():
                return True
            if time.monotonic() >= end:
                return self._tail.behind == 0

    def _stored(self) -> bool:
        """Take the next block of the side file, where there is one that stands for what is in the file."""
        if len(self) % columns.BLOCK or not (block := columns.stored(self.path, len(self), self.cursor)):
            return False
        with self.path.open("rb") as file:
            self._tail.size = os.fstat(file.fileno()).st_size
            self._tail.move(file, block.end)
        self.left_out += block.left_out
        self._take(block)
        return True

    def _parsed(self) -> bool:
        lines = self._tail.lines(_READ)
        if self._tail.again:
            self._clear()
            self.generation += 1
        if not lines:
            return False
        at_rows = len(self)
        room = columns.BLOCK - at_rows % columns.BLOCK
        rows, end = list[Mapping[str, object]](), 0
        for start, line in lines:
            row = logs.parse(line)
            self.left_out += row is None and bool(line.strip())
            if row is not None:
                rows.append(row)
                end = start + len(line) + 1
            if len(rows) == room and end != self.cursor and columns.has_block(self.path, end):
                self._back_to(end)  # from here on the side file is faster
                break
        if rows:
            self._take(columns.block_of(rows, at_rows))
        return True

    def _back_to(self, end: int) -> None:
        with self.path.open("rb") as file:
            self._tail.move(file, end)

    def _take(self, block: columns.Block) -> None:
        self.steps.add(block.steps_R)  # first: who reads meanwhile sees no column that reaches further than the steps
        for name, column in block.columns.items():
            known = self.columns.get(name)
            if known is None:
                known = self.columns[name] = Column(block.first + int(column.at_K[0]))
            with np.errstate(over="ignore"):
                known.add(column.at_K + block.first, column.values_K.astype(np.float32))

    @classmethod
    def preview(cls, path: Path, rows: int = PREVIEW) -> Metrics:
        """Some rows of a long file, evenly, and its last ones: what can be shown at once."""
        made = cls(path)
        found: dict[int, Mapping[str, object]] = {}
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                for i in range(rows):
                    start = size * i // rows
                    file.seek(start)
                    if start:
                        file.readline()
                    at = file.tell()
                    line = file.readline()
                    if line.endswith(b"\n") and (row := logs.parse(line)) is not None:
                        found[at] = row
        except OSError:
            return made
        last = logs.last_row(path)
        kept = [found[at] for at in sorted(found)]
        made._take_all([*kept, *([last] if last and last not in kept[-1:] else [])])
        return made

    def _take_all(self, rows: Iterable[Mapping[str, object]]) -> None:
        if kept := list(rows):
            self._take(columns.block_of(kept, 0))
