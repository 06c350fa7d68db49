"""Files that survive a power cut. Everything a run must not lose goes through `keel.runs.disk.Disk`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keel.runs.disk import DISK, Disk

if TYPE_CHECKING:
    from torch import Tensor  # those who only read runs start without torch

TEMPORARY = ".tmp-"  # names that start so are leftovers when no process is at work


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the cpu. Raises SafetensorError or OSError."""
    from safetensors import torch as safetensors_torch

    return cast("Any", safetensors_torch).load_file(path)


def write_atomic(path: Path, data: bytes, disk: Disk = DISK, *, sync: bool = True) -> None:
    """Write a small file: at any moment, also after a power cut, ``path`` holds all of the old or all of the new content, whoever else
    writes it at the same time. Without ``sync`` a power cut may leave neither: for what can be made again."""
    _replace(path, lambda temporary: disk.write(temporary, data), disk, sync)


def cut_atomic(path: Path, size: int, disk: Disk = DISK) -> None:
    """Leave the first ``size`` bytes of a file: at any moment ``path`` is whole or cut. It is another file then, so whoever follows it
    sees that it was cut, also when it has grown again."""
    _replace(path, lambda temporary: disk.copy(path, temporary, size), disk, True)


def _replace(path: Path, fill: Callable[[Path], None], disk: Disk, sync: bool) -> None:
    """Let ``fill`` write a file under a name that no other process or thread uses, and give it the name ``path``."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        fill(temporary)
        if sync:
            disk.sync_file(temporary)
        disk.rename(temporary, path)
    except BaseException:
        remove_quietly(temporary, disk)
        raise
    if sync:
        disk.sync_dir(path.parent)


def publish_folder(path: Path, fill: Callable[[Path], None], disk: Disk = DISK) -> None:
    """Let ``fill`` write a folder under a temporary name, sync every file in it, and give it the name ``path``.

    A folder that was there is replaced. In between it stands under a ``.old-`` name, from which :func:`recover_folders` puts it back.
    """
    temporary, old = path.with_name(f"{TEMPORARY}{path.name}"), path.with_name(f".old-{path.name}")
    disk.remove(temporary)
    try:
        disk.make_dir(temporary)
        fill(temporary)
        sync_tree(temporary, disk)
        if path.exists():
            disk.remove(old)
            disk.rename(path, old)
            disk.sync_dir(path.parent)
        disk.rename(temporary, path)
    except BaseException:
        remove_quietly(temporary, disk)
        if old.exists() and not path.exists():
            disk.rename(old, path)
        raise
    disk.sync_dir(path.parent)
    disk.remove(old)


def sync_tree(folder: Path, disk: Disk = DISK) -> None:
    """Sync every file and folder below ``folder``, inner ones first, and itself."""
    for root, _, files in os.walk(folder, topdown=False):
        for path in (Path(root) / name for name in sorted(files)):
            if not path.is_symlink():
                disk.sync_file(path)
        disk.sync_dir(Path(root))


def recover_folders(parent: Path, disk: Disk = DISK) -> None:
    """After a crash: put back what was moved aside, remove leftovers of temporary names."""
    for old in parent.glob(".old-*"):
        target = parent / old.name.removeprefix(".old-")
        if target.exists():
            disk.remove(old)
        else:
            disk.rename(old, target)
            disk.sync_dir(parent)
    for leftover in parent.glob(f"{TEMPORARY}*"):
        disk.remove(leftover)


def remove_quietly(path: Path, disk: Disk = DISK) -> None:
    """Remove what a failed write left; its own failure must not hide the first one."""
    try:
        disk.remove(path)
    except OSError:
        return
