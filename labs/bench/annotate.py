"""The server of `keel annotate` under load: a process of its own, and people who ask for items and send votes over HTTP.

    python -m labs.bench.annotate paced --people 200 --seconds 60      # each a vote a second
    python -m labs.bench.annotate saturated --people 200 --seconds 15  # as fast as answers come
    python -m labs.bench.annotate killed --people 24 --kills 8         # kill -9 while they work; the same events are sent again

All have sessions, send the CSRF header and get gold and repeats mixed in. Afterwards the store is held against what was acknowledged.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from keel.feedback import assign, people, schema
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.types import Candidate, Choice, Message, Prompt, Task
from keel.web.kit import csrf_of

_AHEAD = 5  # items a page keeps


@dataclass
class Load:
    """What people saw. Seconds by call; events that were acknowledged; refusals and lost connections."""

    votes: list[float] = field(default_factory=list[float])
    items: list[float] = field(default_factory=list[float])
    acknowledged: list[str] = field(default_factory=list[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    resent: int = 0
    server_cpu: float = 0.0  # seconds of the processor that the server used, its start included


class Line:
    """One connection that is kept open: HTTP/1.1 by hand, so that the clients cost little of the shared processor."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.cookie = port, f"keel-{port}={token}"
        self.csrf = csrf_of(token)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body. Raises OSError or EOFError when the connection is lost."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\ncookie: {self.cookie}\r\nx-csrf: {self.csrf}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        try:
            writer.write(head.encode() + content)
            status = int((await reader.readuntil(b"\r\n")).split()[1])
            fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            size = int(fields.split("content-length:")[1].split("\r\n")[0])
            return status, json.loads(await reader.readexactly(size))
        except (OSError, EOFError, IndexError, ValueError):
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def person(name: str, line: Line, load: Load, end: float, pause: float, again: bool) -> None:
    """Votes until ``end``. ``again``: a lost connection is no error, the same event is sent until it is answered."""
    draw, queue, sent = random.Random(name), list[dict[str, Any]](), 0
    due = time.perf_counter() + pause * draw.random()
    while time.perf_counter() < end:
        if pause:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += pause
        if len(queue) < 2:
            given = await _timed(line, load, load.items, again, end, "GET", f"/api/campaigns/bench/items?n={_AHEAD}")
            held = {x["handle"] for x in queue}
            queue += [x for x in (given or {"items": []})["items"] if x["handle"] not in held]
            if not queue:
                return
        item, sent = queue.pop(0), sent + 1
        said = {"type": "choice", "chosen": draw.choice(["first", "second", "tie"])}
        event = {"event_id": f"{name}-{item['handle']}", "handle": item["handle"], "answer": said, "strength": 0.5, "active_ms": 900}
        if await _timed(line, load, load.votes, again, end + 30.0, "POST", "/api/judgements", event) is not None:
            load.acknowledged.append(event["event_id"])
    line.close()


async def _timed(line: Line, load: Load, into: list[float], again: bool, end: float, *call: Any) -> Any:
    while True:
        began = time.perf_counter()
        try:
            status, body = await line.call(*call)
        except (OSError, EOFError, ValueError, IndexError) as error:
            if not again or time.perf_counter() > end:
                load.refused[type(error).__name__] += 1
                return None
            load.resent += 1
            await asyncio.sleep(0.05)
            continue
        into.append(time.perf_counter() - began)
        if status != 200:
            load.refused[f"{status} {body['error']['code']}"] += 1
            return None
        return body


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
            assign.member_state(c, name, "bench")

    store.write(job).result()
    return tokens


def _task(name: str, expected: Choice | None = None) -> Task:
    prompt = Prompt(f"p-{name}", (Message("user", f"Which answer is better? {name}"),))
    pair = (Candidate("a", f"One answer of usual length, number {name}. " * 6), Candidate("b", f"Another answer, number {name}. " * 6))
    return Task(f"t-{name}", prompt, pair, "pairwise", "pairwise-v1", expected=expected)


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


async def run(mode: str, store: str, tokens: dict[str, str], seconds: float, kills: int) -> tuple[Load, float, float]:
    """Load, seconds of it, seconds of the server's start."""
    process, port, started = await asyncio.to_thread(start, store)
    load, began = Load(), time.perf_counter()
    pause = 1.0 if mode == "paced" else 0.0
    try:
        end = began + (seconds if mode != "killed" else 1e9)
        work = [asyncio.create_task(person(n, Line(port, t), load, end, pause, mode == "killed")) for n, t in tokens.items()]
        if mode == "killed":
            process = await _killing(store, process, port, kills, load)
            for task in work:
                task.cancel()
        await asyncio.gather(*work, return_exceptions=mode == "killed")
        took, load.server_cpu = time.perf_counter() - began, _cpu(process.pid)
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


def measure(mode: str, number: int, seconds: float, kills: int, items: int) -> dict[str, Any]:
    """Fill a store in a new folder, load its server, look at what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bench.db")
        with Store(path) as store:
            tokens = fill(store, [f"person-{i:04d}" for i in range(number)], items)
        load, took, started = asyncio.run(run(mode, path, tokens, seconds, kills))
        with Store(path) as store:
            held = check(store, load)
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
    found["server_cpu_s"] = round(load.server_cpu, 2)
    return found | {"resent": load.resent, "kills": kills if mode == "killed" else 0, **held}


def _percentile(seconds: Sequence[float], q: int) -> float:
    ordered = sorted(seconds)
    return round(1000.0 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)], 1) if ordered else float("nan")


def main() -> None:
    """One measurement, as a line of JSON."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("mode", choices=["paced", "saturated", "killed"])
    top.add_argument("--people", type=int, default=200)
    top.add_argument("--seconds", type=float, default=60.0)
    top.add_argument("--kills", type=int, default=8)
    top.add_argument("--items", type=int, default=8000)
    args = top.parse_args()
    print(json.dumps(measure(args.mode, args.people, args.seconds, args.kills, args.items)))


if __name__ == "__main__":
    main()
