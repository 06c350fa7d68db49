"""A real PostgreSQL server for the tests: its own folder, a Unix socket alone, gone afterwards. Read through ``runpy``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """Where initdb and pg_ctl lie."""
    places = [Path(p).parent for p in (shutil.which("initdb"), shutil.which("pg_ctl")) if p]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p.resolve() for p in places if (p / "initdb").exists() and (p / "pg_ctl").exists()), None)


def why_not() -> str:
    """Why no server can be started here; empty when one can."""
    if binaries() is None:
        return "PostgreSQL (initdb, pg_ctl) is not installed"
    if os.geteuid() == 0 and (shutil.which("runuser") is None or not _knows("postgres")):
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database."""
    where = binaries()
    assert where is not None
    folder = Path(tempfile.mkdtemp(prefix="keel-pg-", dir="/tmp"))  # a socket's path must be short
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    try:
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
        subprocess.run([*user, where / "initdb", "-D", folder / "data", "-A", "trust", "-U", "keel", "--no-sync"], **quiet)  # type: ignore[call-overload]
        options = f"-k {folder} -c listen_addresses='' -c max_connections=60"
        start = [*user, where / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start"]
        subprocess.run(start, **quiet)  # type: ignore[call-overload]
        try:
            yield f"postgresql://keel@/postgres?host={folder}"
        finally:
            subprocess.run([*user, where / "pg_ctl", "-D", folder / "data", "-w", "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _knows(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
