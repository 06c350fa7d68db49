"""What a disk does, one operation a method: tests record the sequence and play back every point at which the power may fail. No torch.

What it promises: the content of a file is safe after the file was synced, a name (new, renamed or removed) after its folder was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor


class Disk:
    """The operations of the real file system."""

    def make_dir(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)

    def copy(self, source: Path, target: Path, size: int) -> None:
        """The first ``size`` bytes of a file, as a file of its own."""
        with source.open("rb") as old, target.open("wb") as new:
            while size > 0 and (data := old.read(min(size, 1 << 20))):
                new.write(data)
                size -= len(data)

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        from safetensors import torch as safetensors_torch  # loads torch, which what stores judgements has no need of

        cast("Any", safetensors_torch).save_file(dict(tensors), path, dict(metadata))

    def sync_file(self, path: Path) -> None:
        with path.open("rb+" if os.name == "nt" else "rb") as file:
            os.fsync(file.fileno())

    def sync_dir(self, path: Path) -> None:
        if os.name == "nt":  # Windows cannot open folders; its rename is journalled
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """A file replaces a file of that name; a folder must have a free name."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """A file or a whole folder; fine when it is not there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


DISK = Disk()
