"""Which engine answers a row, and which one goes on when that is gone. Nothing that was accepted is lost while any engine can be had."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from keel.serve.policy.canary import ArmName, Canary, Ended
from keel.serve.policy.config import ProbeConfig, RowsConfig
from keel.serve.policy.engine import Engine, GoneError, RefusedError
from keel.serve.policy.frames import Piece, Row
from keel.serve.policy.metrics import Metrics
from keel.serve.policy.pace import Pace, per_token_s

log = logging.getLogger("keel")
_LOOK_S = 0.05  # between two looks whether an engine is back
_PROBE = Row("", prompt="Hello", max_tokens=1, temperature=0.0, probe=True)


class FullError(Exception):
    """There is no room: ask again later."""


class LostError(Exception):
    """The engine ended and no other one can go on with what was said."""


@dataclass(slots=True)
class Router:
    """``engines`` by arm; the canary's may be missing. ``held``: rows of each arm that were accepted and have not ended."""

    engines: Mapping[ArmName, Engine]
    limits: RowsConfig
    probe: ProbeConfig
    metrics: Metrics
    canary: Canary | None = None
    held: dict[ArmName, int] = field(default_factory=lambda: {"stable": 0, "canary": 0})
    held_bytes: dict[ArmName, int] = field(default_factory=lambda: {"stable": 0, "canary": 0})  # of their requests, as often as rows
    elsewhere: set[str] = field(default_factory=set[str])  # rows that another arm has answered
    shadows: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _ready: tuple[float, str] | None = None
    _probing: asyncio.Task[str] | None = None

    def arm_of(self, key: str) -> ArmName:
        """Where a key's requests go now."""
        return self.canary.arm_of(key) if self.canary is not None and "canary" in self.engines else "stable"

    def take(self, arm: ArmName, rows: int, size: int) -> None:
        """Room for rows of ``size`` bytes each, which `give` returns. Raises FullError."""
        many = self.held[arm] + rows > self.limits.rows + self.limits.waiting
        if many or self.held_bytes[arm] + rows * size > self.limits.waiting_mb * 1e6:
            raise FullError
        self.held[arm] += rows
        self.held_bytes[arm] += rows * size

    def give(self, arm: ArmName, size: int) -> None:
        self.held[arm] -= 1
        self.held_bytes[arm] -= size

    def ended(self, arm: ArmName, names: Sequence[str], ended: Ended | None) -> None:
        """A request of this arm is over; None: it says nothing of the arm. Neither does one that another arm answered."""
        moved = self.elsewhere.intersection(names)
        self.elsewhere -= moved
        if self.canary is not None and ended is not None and not moved:
            self.canary.ended(arm, ended)

    async def draw(self, row: Row, arm: ArmName) -> AsyncIterator[Piece]:
        """The answer to a row. When the engine ends in the middle, another one of the same tokenizer goes on behind what was said, or the
        same one does when it is back. Raises RefusedError, LostError."""
        engine = await self._engine(arm)
        said, told, taken, moves = list[int](), False, False, 0
        while True:
            before = engine.about.tokenizer
            try:
                async with aclosing(engine.ask(row.again(said))) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        said += piece.ids
                        told = told or bool(piece.text)
                        if piece.prompt_tokens is None or not taken:
                            yield piece
                        taken = taken or piece.prompt_tokens is not None
                        if piece.end:
                            return
                raise GoneError
            except GoneError:
                moves += 1
                if moves > self.probe.moves:
                    raise LostError("the worker ended again and again") from None
                if self.canary is not None and engine is self.engines.get("canary"):
                    self.canary.windows["canary"].add(Ended(ok=False))
                gone, engine = engine, await self._engine(arm, not_now=engine)
                if engine is not gone:
                    self.elsewhere.add(row.name)
                if (said or told) and (not before or engine.about.tokenizer != before):
                    raise LostError("the worker ended, and the other model writes other tokens") from None
                self.metrics.moved.labels("canary" if engine is self.engines.get("canary") else "stable").inc()

    async def _engine(self, arm: ArmName, not_now: Engine | None = None) -> Engine:
        """The arm's engine, the other one where it is gone, the first that is back where both are. Raises LostError where none comes."""
        deadline = time.monotonic() + self.probe.gone_s
        while True:
            usable = [self.engines[arm]] if arm in self.engines else []
            if arm == "canary" or (self.canary is not None and self.canary.active):
                usable += [engine for name, engine in self.engines.items() if name != arm]
            found = next((engine for engine in usable if engine.alive and engine is not not_now), None)
            if found is None and not_now is not None and not_now.alive:
                found = not_now
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise LostError(f"the worker has been gone for {self.probe.gone_s:g} s")
            await asyncio.sleep(_LOOK_S)

    def shadow(self, row: Row, key: str) -> None:
        """Let the canary answer too, where the key says so and it has the time. Nobody reads that answer."""
        canary = self.canary
        if canary is None or not canary.shadowed(key) or self.held["canary"] >= self.limits.rows or not self.engines["canary"].alive:
            return
        self.held["canary"] += 1
        task = asyncio.create_task(self._shadow(replace(row, name=secrets.token_hex(8)), canary))
        self.shadows.add(task)
        task.add_done_callback(self.shadows.discard)

    async def _shadow(self, row: Row, canary: Canary) -> None:
        canary.sent()
        pace, ok = Pace(), False
        try:
            async with asyncio.timeout(self.limits.timeout_s), aclosing(self.engines["canary"].ask(row)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    pace.add(piece)
                    ok = piece.end in ("stop", "length")
        except RefusedError:
            ok = True
        except (GoneError, TimeoutError):
            ok = False
        finally:
            self.held["canary"] -= 1
            canary.left()
        canary.ended("canary", Ended(ok, per_token_s=per_token_s([pace])))
        self.metrics.shadows.labels("ok" if ok else "failed").inc()

    async def ready(self) -> str:
        """Does the stable arm really draw a token? Empty, or what is wrong. One token answers all who ask within a second."""
        if self._ready is not None and time.monotonic() - self._ready[0] < 1.0:
            return self._ready[1]
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> str:
        engine = self.engines["stable"]
        why = "" if engine.alive else "the worker is not there"
        if not why:
            try:
                async with asyncio.timeout(self.probe.ready_s):
                    async with aclosing(engine.ask(replace(_PROBE, name=f"probe-{secrets.token_hex(8)}"))) as pieces:  # type: ignore[type-var]
                        async for piece in pieces:
                            why = piece.error if piece.end == "error" else ""
            except TimeoutError:
                why = f"no token came within {self.probe.ready_s:g} s"
            except (GoneError, RefusedError) as error:
                why = str(error) or "the worker ended"
        self._ready = time.monotonic(), why
        return why
