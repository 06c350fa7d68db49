"""The server of `keel annotate` under load: a process of its own, and people who ask for items and send votes over HTTP.

    python -m labs.bench.annotate paced --people 200 --seconds 60      # each a vote a second
    python -m labs.bench.annotate saturated --people 200 --seconds 15  # as fast as answers come
    python -m labs.bench.annotate killed --people 24 --kills 8         # kill -9 while they work; the same events are sent again
    python -m labs.bench.annotate importing --people 50 --megabytes 30 # a file of tasks comes in and all goes out, each vote a second

All have sessions, send the CSRF header and get gold and repeats mixed in. Afterwards the store is held against what was acknowledged.
``--store URL`` takes another database than a new SQLite file, an empty one of PostgreSQL for instance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from keel.feedback import members, people, schema
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.rows import task_row
from keel.types import Candidate, Choice, Message, Prompt, Task
from labs.bench.annotators import Line, Load, person

PACED = 1.0  # seconds between two votes of a person
_MODES = ("paced", "saturated", "killed", "importing")


def fill(store: Store, names: Sequence[str], items: int) -> dict[str, str]:
    """A campaign of pairs with gold in it, and a session for everybody; returns the tokens."""
    store.add_campaign(Campaign("bench", 3, "pairwise", "pairwise-v1", gold_share=0.1, repeat_share=0.05))
    store.add_tasks("bench", [_task(f"{i}") for i in range(items)])
    store.add_tasks("bench", [_task(f"gold-{i}", Choice("first")) for i in range(100)], role="gold")
    tokens = {name: people.new_token() for name in names}

    def job(c: Any) -> None:
        for name, token in tokens.items():  # without scrypt: nobody signs in by password here
            people.add_account(c, name, people.new_salt(), "", "annotator", store.clock())
            c.execute(
                insert(schema.session), {"digest": people.token_digest(token), "account": name, "at": 0.0, "until": 4e9, "revoked": 0}
            )
            members.member_state(c, name, "bench")

    store.write(job).result()
    return tokens


def _task(name: str, expected: Choice | None = None) -> Task:
    prompt = Prompt(f"p-{name}", (Message("user", f"Which answer is better? {name}"),))
    pair = (Candidate("a", f"One answer of usual length, number {name}. " * 6), Candidate("b", f"Another answer, number {name}. " * 6))
    return Task(f"t-{name}", prompt, pair, "pairwise", "pairwise-v1", expected=expected)


def write_tasks(path: Path, megabytes: float) -> int:
    """A file of that size of new tasks of the campaign, in the form that `keel feedback import` reads; returns how many."""
    count, size = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            row = task_row(replace(_task(f"new-{count}"), campaign="bench"))
            size += file.write(json.dumps({"task": row, "role": "work", "priority": 0.0}) + "\n")
            count += 1
    return count


def start(store: str, port: int = 0) -> tuple[subprocess.Popen[str], int, float]:
    """The real command; returns it with its port and the seconds until it answered."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "keel.cli", "annotate", "--store", store, "--port", str(port), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("sign in"):
            port = int(line.rsplit(":", 1)[1].split("/")[0])
        if line.startswith("Ctrl-C"):
            return process, port, time.perf_counter() - began
    raise RuntimeError("the server did not start")


async def _killing(store: str, process: subprocess.Popen[str], port: int, kills: int, load: Load) -> subprocess.Popen[str]:
    draw = random.Random(0)
    for _ in range(kills):
        wanted = len(load.acknowledged) + draw.randint(60, 200)
        for _ in range(3000):  # a minute at most
            if len(load.acknowledged) >= wanted:
                break
            await asyncio.sleep(0.02)
        process.kill()
        process.wait()
        process, _, _ = await asyncio.to_thread(start, store, port)
    return process


async def _moving(store: str, folder: Path, megabytes: float, load: Load) -> None:
    """While people vote, other processes bring a file of tasks in and write everything out."""
    tasks, out = folder / "tasks.jsonl", folder / "out.jsonl"
    await asyncio.to_thread(write_tasks, tasks, megabytes)
    for what, more in (("import", [str(tasks)]), ("export", ["--campaign", "bench", "--out", str(out)])):
        command = [sys.executable, "-m", "keel.cli", "feedback", what, "--store", store, *more]
        began = time.perf_counter()
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        load.moved[f"{what}_s"] = round(time.perf_counter() - began, 1)
        if done.returncode:
            raise RuntimeError(f"keel feedback {what}: {done.stderr.strip()[-500:]}")


async def run(
    mode: str, store: str, folder: Path, tokens: dict[str, str], seconds: float, kills: int, megabytes: float
) -> tuple[Load, float, float]:
    """Load, seconds of it, seconds of the server's start."""
    process, port, started = await asyncio.to_thread(start, store)
    load, began, used, own = Load(), time.perf_counter(), _cpu(process.pid), time.process_time()
    pause, timed = 0.0 if mode in ("saturated", "killed") else PACED, mode in ("paced", "saturated")
    try:
        end = began + (seconds if timed else 1e9)
        work = [asyncio.create_task(person(n, Line(port, t), load, end, pause, mode == "killed")) for n, t in tokens.items()]
        if mode == "killed":
            process = await _killing(store, process, port, kills, load)
        elif mode == "importing":
            await _moving(store, folder, megabytes, load)
        for task in work if not timed else ():
            task.cancel()
        await asyncio.gather(*work, return_exceptions=not timed)
        took, load.people_cpu = time.perf_counter() - began, time.process_time() - own
        load.server_cpu = _cpu(process.pid) - (0.0 if mode == "killed" else used)
    finally:
        process.terminate()
        process.wait(30)
    return load, took, started


def _cpu(pid: int) -> float:
    """Seconds of the processor that a process used so far; NaN where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check(store: Store, load: Load) -> dict[str, int]:
    """Acknowledged events that are not stored, and anything stored twice."""
    found = store.judgements("bench")
    stored = Counter(j.event_id for j in found)
    places = Counter((j.task_id, j.by, j.purpose, j.repeat) for j in found)
    work = sum(j.purpose == "work" for j in found)
    return {
        "lost": len(set(load.acknowledged) - set(stored)),
        "doubled": sum(n - 1 for n in stored.values()) + sum(n - 1 for n in places.values()),
        "stored": len(found),
        "counts_differ": abs(store.progress("bench")["votes"] - work) if work else 0,
    }


def measure(
    mode: str, number: int, seconds: float = 0.0, kills: int = 0, items: int = 8000, *, megabytes: float = 30.0, url: str = ""
) -> dict[str, Any]:
    """Fill a store (of a new folder, or an empty one at ``url``), load its server, look at what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = url or str(Path(folder) / "bench.db")
        with Store(path) as store:
            tokens = fill(store, [f"person-{i:04d}" for i in range(number)], items)
        load, took, started = asyncio.run(run(mode, path, Path(folder), tokens, seconds, kills, megabytes))
        with Store(path) as store:
            held = check(store, load) | {"tasks": len(store.task_ids("bench"))}
    found = {
        "mode": mode,
        "people": number,
        "seconds": round(took, 1),
        "server_start_s": round(started, 2),
        "load_average": os.getloadavg()[0],
    }
    found |= {"acknowledged": len(load.acknowledged), "votes_per_s": round(len(load.votes) / took, 1), "refused": dict(load.refused)}
    found |= {f"vote_p{q}_ms": _percentile(load.votes, q) for q in (50, 95, 99)}
    found |= {f"items_p{q}_ms": _percentile(load.items, q) for q in (50, 99)}
    found |= {"server_cpu_s": round(load.server_cpu, 2), "people_cpu_s": round(load.people_cpu, 2)}
    found |= {f"{who}_cpu_ms_a_vote": round(1000.0 * s / max(1, len(load.votes)), 3) for who, s in load.cpu.items()}
    found |= {"megabytes": megabytes, **load.moved} if mode == "importing" else {}
    return found | {"resent": load.resent, "kills": kills if mode == "killed" else 0, **held}


def _percentile(seconds: Sequence[float], q: int) -> float:
    ordered = sorted(seconds)
    return round(1000.0 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)], 1) if ordered else float("nan")


def main() -> None:
    """One measurement, as a line of JSON."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("mode", choices=_MODES)
    top.add_argument("--people", type=int, default=200)
    top.add_argument("--seconds", type=float, default=60.0)
    top.add_argument("--kills", type=int, default=8)
    top.add_argument("--items", type=int, default=8000)
    top.add_argument("--megabytes", type=float, default=30.0)
    top.add_argument("--store", default="", metavar="URL")
    args = top.parse_args()
    more = {"megabytes": args.megabytes, "url": args.store}
    print(json.dumps(measure(args.mode, args.people, args.seconds, args.kills, args.items, **more)))


if __name__ == "__main__":
    main()
