"""A judge behind a server or behind a made-up line, with pauses that take no time. Needs httpx."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from asking import Server, completion

from keel.judges.config import EndpointConfig
from keel.judges.endpoint import EndpointJudge

PRICE = {"read": 10.0, "written": 30.0}  # a call of 100 + 1 tokens costs 0.00103


class Pauses:
    """Pauses that are noted and not made; the clock stands unless a pause moves it."""

    def __init__(self) -> None:
        self.made: list[float] = []
        self.now = 0.0

    async def __call__(self, seconds: float) -> None:
        self.made.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def clock(self) -> float:
        return self.now


def judge(server: Server | None, tmp_path: Path, pauses: Pauses | None = None, transport: Any = None, **settings: Any) -> EndpointJudge:
    url = "http://far/v1" if server is None else server.url
    settings = {"url": url, "model": "big", "journal": str(tmp_path / "calls.sqlite"), "price": PRICE, **settings}
    pauses = pauses or Pauses()
    return EndpointJudge("far", EndpointConfig(**settings), pauses, pauses.clock, transport)


def line(*happens: Any) -> Any:
    """A transport on which these things happen one after the other, the last one from then on: errors are raised, replies given."""
    left = list(happens)

    def act(request: httpx.Request) -> httpx.Response:
        what = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(what, type):
            raise what("so it is", request=request)
        return what if isinstance(what, httpx.Response) else httpx.Response(200, json=what)

    return httpx.MockTransport(act)


A = completion("A", {"A": 0.0})
