"""A worker's process without a model, for tests of the engine: says "a b c d", one token at a time. The prompt says what goes wrong."""

from __future__ import annotations

import json
import os
import socket
import sys
import time


def main(fd: int) -> None:
    with socket.socket(fileno=fd) as sock:
        lines = sock.makefile("rw", encoding="utf-8")
        settings = json.loads(lines.readline())

        def send(frame: dict) -> None:
            lines.write(json.dumps(frame) + "\n")
            lines.flush()

        if settings.get("hangs"):
            time.sleep(3600)
        if settings.get("fails"):
            send({"failed": "no such model", "hint": "name another"})
            return
        send({"ready": {"model": settings["model"], "tokenizer": "t", "details": {"pid": os.getpid()}}})
        for line in lines:
            frame = json.loads(line)
            if "ask" not in frame:
                continue
            row = frame["ask"]
            said = len(row.get("said", ()))
            send({"piece": {"name": row["name"], "prompt_tokens": 2}})
            for i, word in enumerate("abcd"):
                if i < said:
                    continue
                if row["prompt"] == "die" and i == 2 and not said:
                    os._exit(3)
                if row["prompt"] == "hang":
                    time.sleep(3600)
                send({"piece": {"name": row["name"], "ids": [i], "text": word, "end": "stop" if i == 3 else ""}})


main(int(sys.argv[1]))
