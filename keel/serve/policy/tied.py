"""Stands between us and a server that is started beside us: ``tied ARGUMENT...`` of the server's Python. When we end, however we do, the
pipe at its input closes, and the server ends with all processes of its own; killed alone a server may leave some."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

from keel.sandbox.frames import die_with_parent

_TO_END_S = 10.0


def main(arguments: list[str]) -> int:
    """Until the server has ended; its exit code, 128 and the signal's number where one ended it."""
    server = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    alone = threading.Event()
    threading.Thread(target=_when_alone, args=(server, alone), daemon=True).start()
    code = server.wait()
    if alone.is_set():
        os.killpg(0, signal.SIGKILL)  # we lead the group; else whoever started us does it
    return code if code >= 0 else 128 - code


def _when_alone(server: subprocess.Popen[bytes], alone: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    alone.set()
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_TO_END_S)
    server.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
