"""An engine's process: `python -m keel.rollout.server.main PORT`. Ends with its standard input, so with whoever started it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading

from keel.rollout.server.engine import Engine
from keel.rollout.server.http import EngineServer


def main(port: int) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's: it closes our input when it is done
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    server = EngineServer(("127.0.0.1", port), Engine())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    sys.stdin.read()
    os._exit(0)  # not even a drawing is waited for: nobody would read it


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
