"""People for `labs.bench.annotate`: each has a session and a connection that is kept open, asks for items and sends votes over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

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
    moved: dict[str, float] = field(default_factory=dict[str, float])  # seconds that the import and the export took
    server_cpu: float = 0.0  # seconds of the processor that the server used for them
    people_cpu: float = 0.0  # seconds of the processor that the people themselves used

    @property
    def cpu(self) -> dict[str, float]:
        """Both, by who used them."""
        return {"server": self.server_cpu, "people": self.people_cpu}


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
