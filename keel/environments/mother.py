"""The inside of ``workers.py``: the mother process, which runs the user's file once, and her children, an episode each. No torch here."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from keel.core.errors import UserError
from keel.environments.adapters import load_environment
from keel.environments.agent import Agent
from keel.environments.host import End, reason
from keel.environments.play import Play, Step
from keel.sandbox.frames import die_with_parent, frame_of, receive_frame
from keel.types import Environment, Message


def main(control: socket.socket) -> None:
    """Run the user's file, say so, and fork a child for each socket that is handed in, until there are no more."""
    die_with_parent()
    os.dup2(2, 1)  # a user's print is no answer
    first = receive_frame(control)
    assert first is not None, "the first frame names the environment"
    sys.path[:0] = [""] if "" not in sys.path else []
    try:
        environment = load_environment(*pickle.loads(first))
    except UserError as error:
        _send(control, {"mistake": [error.message, error.hint]})
        return
    _send(control, {"ready": True, "agent": isinstance(environment, Agent)})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that have ended leave nothing behind
    while True:
        word, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not word:
            return
        if os.fork() == 0:
            control.close()
            _child(environment, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])


def _child(environment: Environment | Agent, line: socket.socket) -> None:
    """One episode, from its first question to its last; never returns."""
    status = 1
    try:
        os.setsid()  # a group of its own, which is killed as a whole
        die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _send(line, {"pid": os.getpid()})
        _serve(environment, line)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(environment: Environment | Agent, line: socket.socket) -> None:
    play: Play | None = None
    said: dict[str, Any]
    while (frame := receive_frame(line)) is not None:
        what, *given = pickle.loads(frame)
        try:
            if isinstance(environment, Agent):
                said = _worth(environment.run(*given))
            elif what == "open":
                play = Play(environment, given[0])
                opening = play.open()
                said = {"messages": _rows(opening.messages), "tools": list(opening.tools)}
            else:
                assert play is not None, "an episode is begun before it is asked"
                said = _worth(play.end()) if what == "end" else _answered(play.answer(*given))
        except UserError as error:
            said = {"error": str(error)}
        except Exception as error:  # the conversation has failed, and says why
            said = {"error": reason(error, "agent" if isinstance(environment, Agent) else "episode")}
        _send(line, said)


def _send(line: socket.socket, said: dict[str, Any]) -> None:
    line.sendall(frame_of(json.dumps(said, ensure_ascii=True, default=str).encode()))


def _worth(end: End) -> dict[str, Any]:
    reward, parts = end
    return {"reward": reward, "parts": parts}


def _answered(step: Step) -> dict[str, Any]:
    told = {"reward": step.reward, "parts": dict(step.parts), "done": step.done, "calls": step.calls, "bad_calls": step.bad_calls}
    return {"messages": _rows(step.messages), **told}


def _rows(messages: Sequence[Message]) -> list[Any]:
    return [[m.role, m.text, dict(m.extra)] for m in messages]


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
