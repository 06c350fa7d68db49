"""What an interpreter must be able to read to run at all, and who it can be: the rest of the machine is out of its sight."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Literal

NOBODY = 65534
Rights = Literal["file", "names", "tree"]  # read a file; list the names under a folder; both
HIDDEN = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip")  # installed packages may hold the very answers to the tests


@cache
def interpreter() -> str:
    """The real interpreter behind a virtual environment's link: the environment's packages are not for the tested code."""
    return os.path.realpath(sys.executable)


@cache
def readable() -> tuple[tuple[str, Rights], ...]:
    """Paths and what may be done with them: the standard library without installed packages, and the system's shared libraries."""
    found: list[tuple[str, Rights]] = []
    for folder in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}):
        found.append((folder, "names"))  # importing lists folders
        for entry in sorted(Path(folder).iterdir()):
            if entry.name not in HIDDEN:
                found.append((str(entry), _whole(str(entry))))
    for path in [*_library_folders(), *map(str, sorted(Path(sys.base_prefix, "lib").glob("lib*.so*")))]:
        found.append((path, _whole(path)))
    for zone in ("/usr/share/zoneinfo", "/etc/localtime"):
        found.append((zone, _whole(zone)))
    return tuple(dict.fromkeys(pair for pair in found if os.path.exists(pair[0])))


def _whole(path: str) -> Rights:
    return "tree" if os.path.isdir(path) else "file"


def _library_folders() -> list[str]:
    """Where the loader finds shared libraries on Debian, Fedora, Alpine and the like; never a folder that is more than that."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    folders = [f"/lib/{multiarch}", f"/usr/lib/{multiarch}", "/lib64", "/usr/lib64"]
    return sorted({os.path.realpath(f) for f in folders if os.path.isdir(f)} - {"/usr/lib", "/lib"})


@cache
def identity() -> int | None:
    """Who to become: nobody, where one is root and nobody could still read the library; None = stay who one is (without capabilities)."""
    if os.getuid() != 0:
        return None
    needed = [interpreter(), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    return NOBODY if all(_open_to_all(Path(p)) for p in needed) else None


def _open_to_all(path: Path) -> bool:
    """Can anybody walk to this path and use it?"""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents) and bool(path.stat().st_mode & 0o004)
