"""kill -9 under load: what was acknowledged is there, once; the counts agree with the votes; leases come back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from keel.feedback import schema
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.types import Annotator, Candidate, Message, Prompt, Task

PEOPLE, TASKS, WANTED = 12, 600, 3
WRITER = """
import sys, threading
from keel.feedback.db import Store
from keel.types import Choice
store, said = Store(sys.argv[1]), threading.Lock()
def person(name):
    while items := store.next_items(name, "c", 5):
        for item in items:
            event = f"{name}:{item.handle}"
            for _ in range(2):  # every answer is sent twice
                store.answer(name, item.handle, event, Choice("first"))
            with said:
                print(event, flush=True)
threads = [threading.Thread(target=person, args=(f"w{i}",)) for i in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
store.close()
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_eight_times_under_load_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/f.db"
    with Store(url) as store:
        store.add_campaign(Campaign("c", WANTED, "pairwise", "v1", lease_seconds=1e6))
        pair = (Candidate("a", "x"), Candidate("b", "y"))
        store.add_tasks("c", [Task(f"t{i}", Prompt(f"p{i}", (Message("user", "?"),)), pair, "pairwise", "v1") for i in range(TASKS)])
        for i in range(PEOPLE):
            store.add_annotator(Annotator(f"w{i}", "person"))
    draw, acknowledged = random.Random(0), list[str]()
    for _ in range(8):
        said = run_until(url, draw.randint(40, 160))
        assert "done" not in said, "it came to its end before it was killed: too few tasks"
        acknowledged += said
        check(url, acknowledged)
    last = run_until(url, None)
    assert last[-1] == "done"
    everything = acknowledged + last[:-1]
    assert len(everything) == len(set(everything)), "what was answered is served to nobody again"
    found = check(url, acknowledged + last[:-1])
    assert found == {f"t{i}": WANTED for i in range(TASKS)}


def run_until(url: str, lines: int | None) -> list[str]:
    """Run the writing process, and kill it after so many acknowledgements. What it had said is read to the end."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, url, str(PEOPLE)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if lines is not None and len(said) == lines:
            os.kill(process.pid, signal.SIGKILL)
    code = process.wait()
    assert code == (0 if lines is None else -signal.SIGKILL)
    return [line.strip() for line in said if line.endswith("\n")]


def check(url: str, acknowledged: list[str]) -> Counter[str]:
    """No acknowledged vote is missing, none stands twice; returns the votes that count by task."""
    h, j, t, le = schema.head, schema.judgement, schema.task, schema.lease
    with Store(url) as store:
        assert store.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
        stored = store.read(lambda c: c.execute(select(j.c.event_id)).scalars().all())
        assert set(acknowledged) <= set(stored), "acknowledged and lost"
        keys = store.read(lambda c: c.execute(select(j.c.task, j.c.annotator)).all())
        assert set(Counter(keys).values()) <= {1}, "doubled"
        votes = Counter(store.read(lambda c: c.execute(select(h.c.task).where(h.c.counted == 1)).scalars().all()))
        leases = Counter(store.read(lambda c: c.execute(select(le.c.task).where(le.c.state == "open")).scalars().all()))
        for row in store.read(lambda c: c.execute(select(t)).all()):
            assert (row.done, row.leased) == (votes[row.task_id], leases[row.task_id])
    return votes
