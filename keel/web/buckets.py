"""How often is too often: token buckets in memory, by key. No clock of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_KEYS = 50_000  # remembered; the longest unused one is forgotten first


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Buckets:
    """``burst`` calls at once, ``rate`` a second in the long run, for each key."""

    def __init__(self, burst: float, rate: float, clock: Callable[[], float]) -> None:
        self.burst, self.rate, self._clock = burst, rate, clock
        self._of: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, key: str) -> float:
        """Seconds until the key may be used again; 0 when it may now. Takes nothing."""
        left = self._fill(key).left
        return 0.0 if left >= 1.0 else (1.0 - left) / self.rate

    def take(self, key: str) -> float:
        """Like `wait`, and takes one when there is one."""
        wait = self.wait(key)
        if not wait:
            self._of[key].left -= 1.0
        return wait

    def _fill(self, key: str) -> _Bucket:
        now = self._clock()
        bucket = self._of.get(key)
        if bucket is None:
            bucket = self._of[key] = _Bucket(self.burst, now)
            if len(self._of) > _KEYS:
                self._of.popitem(last=False)
        bucket.left = min(self.burst, bucket.left + max(0.0, now - bucket.at) * self.rate)
        bucket.at = now
        self._of.move_to_end(key)
        return bucket
