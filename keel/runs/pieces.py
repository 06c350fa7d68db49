"""Tensors in several files: each process writes the rows that it has, whoever reads puts together what it needs, one tensor at a time.

Files are safetensors named ``<stem>.rank<k>of<n>.safetensors``; the header says of each tensor which row its piece begins with and what the
shape of the whole is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from keel.runs.disk import DISK, Disk

if TYPE_CHECKING:
    from torch import Tensor  # those who only read runs start without torch

_NAME = re.compile(r"(?P<stem>.+)\.rank(?P<rank>\d+)of(?P<world>\d+)\.safetensors")
_PIECES = "pieces"


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a tensor: ``first`` is the index of the first of them in the whole, whose shape is ``shape``."""

    tensor: Tensor
    first: int
    shape: tuple[int, ...]


class Written(Protocol):
    """Tensors that lie elsewhere, and are written from there."""

    @property
    def size(self) -> int:
        """Bytes, about."""
        ...

    def write(self, folder: Path, stem: str, metadata: Mapping[str, str]) -> None:
        """Write the files of ``stem``. Raises OSError or SafetensorError."""
        ...


def file_name(stem: str, rank: int, world: int) -> str:
    """The file of one process."""
    return f"{stem}.rank{rank}of{world}.safetensors"


def stem_of(name: str) -> str | None:
    """The stem of a file of pieces; None for any other file."""
    found = _NAME.fullmatch(name)
    return None if found is None else found["stem"]


def write_pieces(path: Path, pieces: Mapping[str, Piece], metadata: Mapping[str, str], disk: Disk = DISK) -> None:
    """Write one process's file. Raises OSError or SafetensorError."""
    where = {name: [piece.first, list(piece.shape)] for name, piece in pieces.items()}
    tensors = {name: piece.tensor.detach().cpu().contiguous().clone() for name, piece in pieces.items()}
    disk.write_tensors(path, tensors, {**metadata, _PIECES: json.dumps(where)})


class Pieces(Mapping[str, "Tensor"]):
    """The tensors of some files by name, each put together when it is asked for. A file without word of pieces holds whole tensors."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Reads the headers. Raises SafetensorError or OSError; ValueError where rows are missing."""
        self.files = tuple(files)
        self._where: dict[str, list[tuple[Path, int, int]]] = {}  # file, first row, number of rows
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            with _open(path) as file:
                pieces = json.loads(cast("dict[str, str]", file.metadata() or {}).get(_PIECES, "{}"))
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    held = tuple(file.get_slice(name).get_shape())
                    first, shape = pieces.get(name, (0, held))
                    self.shapes[name] = tuple(shape)
                    self._where.setdefault(name, []).append((path, first, held[0] if held else 1))
        for name, parts in self._where.items():
            whole, at = (self.shapes[name] or (1,))[0], 0
            for _, first, n in sorted(parts, key=lambda part: (part[1], part[2])):
                if first != at and n:
                    raise ValueError(f"rows {at} to {first} of {name} are missing")
                at = max(at, first + n)
            if at != whole:
                raise ValueError(f"rows {at} to {whole} of {name} are missing")

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of a tensor, on the CPU; of a single number itself."""
        import torch

        parts: list[Tensor] = []
        for path, begin, n in sorted(self._where[name], key=lambda part: part[1:]):
            with _open(path) as file:
                if not self.shapes[name]:
                    return file.get_tensor(name)
                low, high = max(first, begin), min(last, begin + n)
                if low < high:
                    parts.append(file.get_slice(name)[low - begin : high - begin])
        if not parts:
            with _open(self._where[name][0][0]) as file:
                return file.get_tensor(name)[:0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        return self.rows(name, 0, shape[0] if shape else 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _open(path: Path) -> Any:
    """A safetensors file, open: a context."""
    from safetensors import safe_open  # loads torch

    return cast(Any, safe_open)(path, framework="pt")
