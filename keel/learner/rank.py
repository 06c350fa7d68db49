"""One rank: ``python -m keel.learner.rank PIPE LIFE``, started by ``learner.host``. It does what the driver says until that is gone."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection


def main(pipe: int, life: int) -> None:
    """Serve commands until the pipe ends."""
    threading.Thread(target=_end_with_the_driver, args=(life, os.getppid()), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver hears them too, saves, and ends the ranks
    connection = Connection(pipe)
    import torch  # after the thread: loading takes seconds, in which the driver may end
    import torch.distributed as dist

    from keel.core.errors import UserError
    from keel.learner.host import Setup
    from keel.learner.served import Served
    from keel.learner.sharded import Ranks
    from keel.learner.wire import packed, unpacked

    setup: Setup = unpacked(connection.recv_bytes())
    logging.getLogger("keel").setLevel(logging.WARNING if setup.rank == 0 else logging.ERROR)
    torch.set_num_threads(setup.threads)
    torch.use_deterministic_algorithms(setup.deterministic, warn_only=True)
    on_gpu = setup.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(setup.rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{setup.store}",
        rank=setup.rank,
        world_size=setup.world,
        timeout=timedelta(seconds=setup.timeout_s),
    )
    team = Ranks(torch.device(setup.device), full=setup.full)
    send = (lambda item: connection.send_bytes(packed(("item", item)))) if setup.rank == 0 else (lambda item: None)
    served = Served(team, send)
    while True:
        try:
            command, args = unpacked(connection.recv_bytes())
        except (EOFError, OSError):  # the driver is gone
            os._exit(0)
        try:
            answer = packed(("done", served.do(command, args)))
        except UserError as error:
            answer = packed(("user", (type(error).__name__, error.message, error.hint)))
        except BaseException:
            answer = packed(("crash", traceback.format_exc()))
        try:
            connection.send_bytes(answer)
        except OSError:
            os._exit(0)


def _end_with_the_driver(life: int, driver: int) -> None:
    """``life`` can be read only when its other end is closed."""
    while not select.select([life], [], [], 1.0)[0] and os.getppid() == driver:
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
