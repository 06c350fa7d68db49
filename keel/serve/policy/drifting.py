"""Prompts and answers of a server beside those of before, a window at a time. Bags of tokens are kept, in memory; no text is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from keel.serve.policy.config import DriftConfig
from keel.serve.policy.metrics import Metrics
from keel.watch.token_drift import LEAST, Drift, token_drift

log = logging.getLogger("keel")


class DriftWatch:
    """One kind of text. The first window is the reference where none is given; each later one is compared once, so that ``alpha`` is the
    share of windows that alarm by chance."""

    def __init__(self, what: str, config: DriftConfig, metrics: Metrics, reference: Sequence[Sequence[int]] = ()) -> None:
        self.what, self._config, self._metrics = what, config, metrics
        self._reference = [bag for ids in reference if (bag := bag_of(ids))]
        self._now: list[list[int]] = []
        self._windows = 0
        self.last: Drift | None = None

    def add(self, ids: Sequence[int]) -> asyncio.Task[None] | None:
        """One more text. A window that is full is compared on a thread; the task of that is returned."""
        bag = bag_of(ids)
        if not self._config.window or not bag:
            return None
        self._now.append(bag)
        if len(self._now) < self._config.window:
            return None
        full, self._now = self._now, []
        if len(self._reference) < LEAST:
            self._reference = full
            return None
        self._windows += 1
        return asyncio.create_task(self._compare(full, self._windows))

    async def _compare(self, full: list[list[int]], seed: int) -> None:
        found = await asyncio.to_thread(token_drift, self._reference, full, 999, seed)
        self.last = found
        self._metrics.drift.labels(self.what).set(found.distance)
        self._metrics.drift_p.labels(self.what).set(found.p)
        if found.p <= self._config.alpha:
            self._metrics.drift_alarms.labels(self.what).inc()
            log.warning(
                "drift: the last %d %s are unlike those of before (%.3f nats, p %.3f)", found.now, self.what, found.distance, found.p
            )


def bag_of(ids: Sequence[int]) -> list[int]:
    """The tokens of a text, without their order."""
    return sorted(ids)
