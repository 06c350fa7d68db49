"""One rank: ``python -m keel.learner.rank PIPE LIFE``, started by ``learner.processes``. It lives as long as the driver."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection


def main(pipe: int, life: int) -> None:
    """Serve commands until the pipe ends."""
    threading.Thread(target=_end_with_the_driver, args=(life, os.getppid()), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver hears them too, saves, and ends the ranks
    connection = Connection(pipe)
    from keel.learner.serving import Rank  # after the thread: loading takes seconds, in which the driver may end
    from keel.learner.wire import unpacked

    rank = Rank(unpacked(connection.recv_bytes()))
    try:
        while True:
            for answer in rank.do(connection.recv_bytes()):
                connection.send_bytes(answer)
    except (EOFError, OSError):  # the driver is gone
        os._exit(0)


def _end_with_the_driver(life: int, driver: int) -> None:
    """``life`` can be read only when its other end is closed."""
    while not select.select([life], [], [], 1.0)[0] and os.getppid() == driver:
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
