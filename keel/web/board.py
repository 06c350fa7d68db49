"""What managers' pages show, kept up to date: counts every few seconds, measures by a process of their own when votes came."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from keel.feedback import schema
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
    measured_votes: int = -1
    next_measure: float = -1e9
    running: asyncio.Task[None] | None = None
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)


class Board:
    """One an app. All methods belong to its event loop."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
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
        stale = here.counts["events"] != here.measured_votes
        if stale and here.running is None and self.kit.clock() >= here.next_measure:
            here.running = asyncio.create_task(self._measure(campaign, here, here.counts["events"]))
        shown = {"campaign": campaign, "counts": here.counts, "measures": here.measures, "measuring": here.running is not None}
        return {**shown, "fresh": not stale}

    def soon(self, campaign: str) -> None:
        """Something was changed: count and measure again at the next look."""
        here = self._of.get(campaign)
        if here is not None:
            here.counted, here.measured_votes, here.next_measure = -1e9, -1, -1e9

    async def measured(self, campaign: str) -> dict[str, Any]:
        """`look`, with measures that know all votes."""
        shown = await self.look(campaign)
        for _ in range(3):
            running = self._of[campaign].running
            if shown["fresh"] and running is None:
                break
            if running is not None:
                await running
            else:
                self.soon(campaign)
            shown = await self.look(campaign)
        return shown

    def _count(self, campaign: str) -> dict[str, Any]:
        found, j, m = self.kit.store.campaign(campaign), schema.judgement, schema.member
        events = select(func.count()).where(j.c.campaign == campaign)
        states = select(m.c.state, func.count()).where(m.c.campaign == campaign).group_by(m.c.state)
        number, members = self.kit.store.read(lambda c: (c.execute(events).scalar_one(), {row[0]: row[1] for row in c.execute(states)}))
        progress = self.kit.store.progress(campaign)
        about = {"paused": found.paused, "wanted": found.wanted, "kind": found.kind, "guideline": found.guideline}
        return {**progress, **about, "events": number, "members": members}

    async def _measure(self, campaign: str, here: _Campaign, votes: int) -> None:
        began = self.kit.clock()
        try:
            here.measures = await _ask(str(self.kit.store.url.render_as_string(hide_password=False)), campaign)
            here.measured_votes = votes
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("the measures of %s could not be made: %s", campaign, error)
        finally:
            here.running = None
            here.next_measure = self.kit.clock() + max(MEASURES, 4.0 * (self.kit.clock() - began))


async def _ask(store: str, campaign: str) -> dict[str, Any]:
    """Raises ValueError with the process's last words."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "keel.web.measure", stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(_LONGEST):
            out, said = await process.communicate(json.dumps({"store": store, "campaign": campaign}).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ValueError(said.decode(errors="replace").strip()[-500:])
    return json.loads(out)
