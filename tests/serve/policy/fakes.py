"""Engines without models, and a server over them that is asked in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from keel.serve.policy.app import make_app
from keel.serve.policy.canary import Canary
from keel.serve.policy.config import ServePolicyConfig
from keel.serve.policy.engine import GoneError, RefusedError
from keel.serve.policy.filters import RuleConfig
from keel.serve.policy.frames import About, Piece, Row, TokenText
from keel.serve.policy.front import Front
from keel.serve.policy.metrics import Metrics
from keel.serve.policy.router import Router
from keel.serve.policy.server import BodyLimits, Door

T = TypeVar("T")


@dataclass(slots=True)
class FakeEngine:
    """Says ``words`` one after the other, one token each; ``gate`` holds it back before a token, ``die_after`` ends it once."""

    words: Sequence[str] = ("All", " is", " well", ".")
    about: About = field(default_factory=lambda: About("fake", tokenizer="t"))
    alive: bool = True
    restarts: int = 0
    die_after: int | None = None
    stuck: bool = False
    gate: asyncio.Event | None = None
    asked: list[Row] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def ask(self, row: Row) -> AsyncIterator[Piece]:
        self.asked.append(row)
        if not self.alive:
            raise GoneError
        if row.messages and "too long" in str(row.messages[-1]["content"]):
            raise RefusedError("the prompt has 9 tokens too many")
        ended = False
        try:
            while self.stuck:
                await asyncio.sleep(0.01)
            yield Piece(row.name, prompt_tokens=7, words=(1, 2, 3))
            words = list(self.words[: row.max_tokens])
            for i in range(len(row.said), len(words)):
                if self.gate is not None:
                    await self.gate.wait()
                if self.die_after is not None and i >= self.die_after:
                    self.die_after, self.alive = None, False
                    raise GoneError
                last = i == len(words) - 1
                ended = last
                end = "" if not last else "stop" if len(words) == len(self.words) else "length"
                tokens = (TokenText(words[i], -0.5, ((words[i], -0.5), ("?", -2.0))[: row.top]),) if row.top is not None else ()
                yield Piece(row.name, (i,), words[i], tokens, end)
                await asyncio.sleep(0)
        finally:
            if not ended:
                self.left.append(row.name)


@dataclass
class Kept:
    """Votes that are kept in a list."""

    votes: list[Any] = field(default_factory=list)

    def keep(self, served: Any, said: Any, event: str) -> str:
        self.votes.append((served, said))
        return event


def front_of(stable: FakeEngine, new: FakeEngine | None = None, rules: Sequence[RuleConfig] = (), key: str = "", **settings: Any) -> Front:
    """A front over fakes. ``settings`` of ``ServePolicyConfig``."""
    config = ServePolicyConfig(model="fake", **settings)
    engines: dict[Any, Any] = {"stable": stable} | ({"canary": new} if new is not None else {})
    metrics = Metrics()
    watch = Canary(config.canary) if config.canary is not None else None
    router = Router(engines, config.queue, config.probe, metrics, watch)
    return Front(config, router, metrics, rules, None, Kept() if config.feedback.store else None, key)


def client_of(front: Front) -> httpx.AsyncClient:
    """Somebody who asks it."""
    app = make_app(front, Door("127.0.0.1", 80, "", BodyLimits(100_000)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=30)


def chat(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": "fake", "messages": [{"role": "user", "content": text}], **more}


def finish(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, in a loop and a thread of its own: a browser of another test may have a loop in this one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what must come."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")
