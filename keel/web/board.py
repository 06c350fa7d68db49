"""What managers' pages show, kept up to date: counts every few seconds, measures by a process of their own when votes came."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from keel.feedback import schema
from keel.web.cores import allowed
from keel.web.kit import Kit, off

log = logging.getLogger("keel")
COUNTS = 1.0  # seconds for which counts are good
MEASURES = 5.0  # seconds between measurements, at least; and four times as long as one takes
_LONGEST = 120.0  # seconds: a measurement that takes longer is given up


@dataclass(slots=True)
class _Campaign:
    counts: dict[str, Any] = field(default_factory=dict[str, Any])
    counted: float = -1e9
    measures: dict[str, Any] = field(default_factory=dict[str, Any])
    changes: int = 0  # what managers changed here
    measured: tuple[int, int, int] = (-1, -1, -1)  # the `_state` that the measures know
    next_measure: float = -1e9
    running: asyncio.Task[None] | None = None
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)


class Board:
    """One an app. All methods belong to its event loop."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.measurer = kit, Measurer()
        self._of: dict[str, _Campaign] = {}

    async def look(self, campaign: str) -> dict[str, Any]:
        """{campaign, paused, counts, measures, measuring}: counts of now, and the last measures ({} before the first). Raises DataError
        for a campaign that is not there."""
        here = self._of.get(campaign) or _Campaign()
        async with here.gate:
            if self.kit.clock() - here.counted >= COUNTS:
                here.counts = await off(self._count, campaign)
                here.counted = self.kit.clock()
                self._of[campaign] = here
        stale = _state(here) != here.measured
        if stale and here.running is None and self.kit.clock() >= here.next_measure:
            here.running = asyncio.create_task(self._measure(campaign, here, _state(here)))
        shown = {"campaign": campaign, "counts": here.counts, "measures": here.measures, "measuring": here.running is not None}
        return {**shown, "fresh": not stale}

    def soon(self, campaign: str) -> None:
        """Something was changed: count and measure again at the next look."""
        here = self._of.get(campaign)
        if here is not None:  # a measurement that is under way may not know of it: it will be of a state before this one
            here.changes += 1
            here.counted, here.next_measure = -1e9, -1e9

    async def measured(self, campaign: str) -> dict[str, Any]:
        """`look`, with measures that know all votes."""
        shown = await self.look(campaign)
        for _ in range(3):
            running = self._of[campaign].running
            if shown["fresh"] and running is None:
                break
            if running is not None:
                await running
            self._of[campaign].counted = self._of[campaign].next_measure = -1e9
            shown = await self.look(campaign)
        return shown

    def _count(self, campaign: str) -> dict[str, Any]:
        found, j, m = self.kit.store.campaign(campaign), schema.judgement, schema.member
        events = select(func.count()).where(j.c.campaign == campaign)
        taken_back = select(func.count()).select_from(schema.retraction)
        states = select(m.c.state, func.count()).where(m.c.campaign == campaign).group_by(m.c.state)

        def look(c: Connection) -> dict[str, Any]:
            members = {row[0]: row[1] for row in c.execute(states)}
            return {"events": c.execute(events).scalar_one(), "retractions": c.execute(taken_back).scalar_one(), "members": members}

        progress = self.kit.store.progress(campaign)
        about = {"paused": found.paused, "wanted": found.wanted, "kind": found.kind, "guideline": found.guideline}
        return {**progress, **about, **self.kit.store.read(look)}

    async def _measure(self, campaign: str, here: _Campaign, state: tuple[int, int, int]) -> None:
        began = self.kit.clock()
        try:
            url = self.kit.store.url.render_as_string(hide_password=False)
            here.measures = await off(self.measurer.ask, url, campaign)
            here.measured = state
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            if not self.kit.stopping.is_set():
                log.warning("the measures of %s could not be made: %s", campaign, error)
        finally:
            here.running = None
            here.next_measure = self.kit.clock() + max(MEASURES, 4.0 * (self.kit.clock() - began))


def _state(here: _Campaign) -> tuple[int, int, int]:
    """What measures depend on: events, what was taken back (by whomever, also from the command line), what managers changed."""
    return here.counts["events"], here.counts["retractions"], here.changes


class Measurer:
    """Runs `keel.web.measure`. By threads: asyncio's own processes may never end when they are cancelled."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._cores = allowed()  # the server itself stays on one

    def ask(self, store: str, campaign: str) -> dict[str, Any]:
        """Waits for the measures. Raises ValueError with the process's last words, OSError, TimeoutExpired."""
        pipe = subprocess.PIPE
        with self._gate:
            if self._closed:
                raise ValueError("the server is closing")
            process = subprocess.Popen([sys.executable, "-m", "keel.web.measure"], stdin=pipe, stdout=pipe, stderr=pipe)
            self._running.add(process)
        try:
            out, said = process.communicate(
                json.dumps({"store": store, "campaign": campaign, "cores": self._cores}).encode(), timeout=_LONGEST
            )
        finally:
            process.kill()
            process.wait()
            with self._gate:
                self._running.discard(process)
        if process.returncode != 0:
            raise ValueError(said.decode(errors="replace").strip()[-500:])
        return json.loads(out)

    def close(self) -> None:
        """End what runs; nothing more is started. Does not wait, so that a signal's handler may call it."""
        self._closed = True
        for process in tuple(self._running):
            process.kill()
