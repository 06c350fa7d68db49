"""Killed in the middle, started again: no answer is paid for twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from asking import Server, completion

pytest.importorskip("httpx")
CONCURRENCY, QUESTIONS, KILL_AFTER = 4, 40, 17
JOB = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from asking import question
from keel.judges.config import EndpointConfig
from keel.judges.endpoint import EndpointJudge
from keel.judges.orders import verdicts
config = EndpointConfig(url=sys.argv[1], model="m", journal=sys.argv[2], concurrency={CONCURRENCY}, price=dict(read=1, written=1))
found = verdicts(EndpointJudge("far", config), [question(prompt=str(k)) for k in range({QUESTIONS})])
assert not any(v.mean.error for v in found)
"""


def test_kill_and_resume(server: Server, tmp_path: Path):
    from keel.judges.journal import Journal

    command = [sys.executable, "-c", JOB, server.url, str(tmp_path / "calls.sqlite")]
    enough, gone = threading.Event(), threading.Event()
    paid: Counter[str] = Counter()

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        key = repr(body["messages"])
        paid[key] += 1
        if paid.total() > KILL_AFTER:
            enough.set()
            gone.wait(60)  # held until the process is dead: nothing comes after the signal
        return 200, {}, completion("A", {"A": 0.0})

    server.reply = reply
    job = subprocess.Popen(command)
    assert enough.wait(60)
    job.send_signal(signal.SIGKILL)
    job.wait()
    kept = Journal(tmp_path / "calls.sqlite").counts()["answers"]
    gone.set()
    assert KILL_AFTER - CONCURRENCY <= kept <= KILL_AFTER  # what the server answered and the process wrote down
    subprocess.run(command, check=True)
    assert len(paid) == 2 * QUESTIONS
    twice = sum(n > 1 for n in paid.values())
    assert twice <= CONCURRENCY  # those in flight when it died, whose answers nobody ever had
    assert paid.total() - 2 * QUESTIONS == twice
    before = paid.total()
    subprocess.run(command, check=True)
    assert paid.total() == before  # finished: nothing more is paid
