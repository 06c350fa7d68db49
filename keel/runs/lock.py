"""One process a run directory. The kernel holds the lock and lets go of it when the process ends, however it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from keel.core.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: runs are not guarded against a second process there
    fcntl: Any = None

NAME = ".lock"
TELLS = fcntl is not None  # whether ``holder`` can know


class Lock:
    """Holds ``folder`` until :meth:`release`. Raises RunError that names the process in whose hands it is."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / NAME).open("a+")
        if fcntl is None:
            return
        if not self._try(attempts=5):
            pid = _pid(folder)
            self._file.close()
            raise RunError(f"{folder} is in use by process {pid or 'unknown'}", "wait until it is done, stop it, or choose another run_dir")
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _try(self, attempts: int) -> bool:
        """Several attempts, because :func:`holder` takes the lock for a moment to look."""
        for _ in range(attempts):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return True
        return False

    def release(self) -> None:
        """Let go; fine to call twice."""
        self._file.close()


def holder(folder: Path) -> int | None:
    """The process that holds a run directory now, or None."""
    path = folder / NAME
    if fcntl is None or not path.is_file():
        return None
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(folder) or 0
    except OSError:
        return None
    return None


def _pid(folder: Path) -> int | None:
    text = (folder / NAME).read_text().strip()
    return int(text) if text.isdecimal() else None
