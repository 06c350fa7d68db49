"""The server of `keel annotate` as a process of its own, on 127.0.0.1 alone. It ends with whoever started it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keel.core.errors import ConfigError, UserError
from keel.simulate.client import Client, RefusedError

_START_S, _END_S = 120.0, 30.0
_READY = "Ctrl-C ends it"
# The child listens at its standard input: closed, by us or because we are gone, it gets the signal that Ctrl-C sends. One that comes before
# the server listens to signals may be lost, hence the second.
_CHILD = (
    "import os, runpy, signal, threading, time\n"
    "def end():\n"
    "    os.read(0, 1)\n"
    "    os.kill(os.getpid(), signal.SIGINT)\n"
    "    time.sleep(20)\n"
    "    os.kill(os.getpid(), signal.SIGTERM)\n"
    "threading.Thread(target=end, daemon=True).start()\n"
    "runpy.run_module('keel.cli', run_name='__main__')\n"
)


@dataclass(frozen=True, slots=True)
class Served:
    """A server: the links that it printed, its process, and the file of its complaints."""

    annotators: str
    manager: str
    process: subprocess.Popen[str]
    log_file: Path

    def ended(self) -> str | None:
        """Its exit code and last lines if it does not run any more; None while it does."""
        code = self.process.poll()
        return None if code is None else f"exit code {code}: {_last_words(self.log_file)}"

    @property
    def base(self) -> str:
        """What addresses begin with."""
        parts = urlsplit(self.annotators)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def invitation(self) -> str:
        """The token of the annotators' link."""
        return urlsplit(self.annotators).path.rpartition("/")[2]


@contextlib.contextmanager
def served(store: str, campaign: str, tasks: Path, overrides: Sequence[str], log_file: Path, port: int = 0) -> Iterator[Served]:
    """The server while the block runs; every acknowledged vote is on the disk after it. Its complaints go to ``log_file``.

    Raises ConfigError with the server's own words when it does not start, UserError when it had to be killed in the end.
    """
    wanted = ["--store", store, "--campaign", campaign, "--tasks", str(tasks), "--port", str(port), "--no-browser"]
    command = [sys.executable, "-c", _CHILD, "annotate", *wanted, *overrides]
    with log_file.open("ab") as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, start_new_session=True, text=True, encoding="utf-8"
        )
    try:
        found = _links(process, log_file)
        _wait_for(found)
        yield found
    finally:
        _end(process)


def _links(process: subprocess.Popen[str], log_file: Path) -> Served:
    """Read what it prints until it is ready."""
    assert process.stdout is not None
    late = threading.Timer(_START_S, process.kill)
    late.start()
    found: dict[str, str] = {}
    try:
        for line in process.stdout:
            name, _, rest = line.strip().partition(" ")
            found[name] = rest.strip()
            if line.startswith(_READY):
                return Served(found["annotators"], found["manager"], process, log_file)
    finally:
        late.cancel()
    process.wait()
    raise ConfigError(f"keel annotate did not start (exit code {process.returncode}): {_last_words(log_file)}", str(log_file))


def _last_words(log_file: Path) -> str:
    said = [line.strip() for line in log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:]]
    return " ".join(said) or "it said nothing"


def _wait_for(server: Served) -> None:
    """Until it answers: from then on it listens to signals."""
    client = Client(server.base)
    try:
        client.call("GET", "/api/me")
    except RefusedError:
        pass  # nobody is signed in: that is an answer
    finally:
        client.close()


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdin = None
    try:
        process.communicate(timeout=_END_S)  # its last words are read too: a full pipe would hold it up
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise UserError("keel annotate did not end by itself and was killed", "every acknowledged vote is stored") from None
