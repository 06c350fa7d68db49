"""What calls cost, and when there is no money for another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from keel.judges.config import PriceConfig

# For what a call may cost at most, before anybody counted its tokens: low, so that the cost is not told too low. Signs beyond ASCII
# (Chinese, emoji) take a token each or more where the tokenizer was made for another language.
_CHARACTERS_A_TOKEN = 2.0
_TOKENS_A_SIGN = 2.0

_ROUNDING = 1e-9  # of a limit: a sum of costs may lie a little below it that is equal to it


def cost_of(price: PriceConfig, tokens: tuple[int, int] | None) -> float | None:
    """None where a price or the number of tokens is unknown: unknown is never 0."""
    if tokens is None or price.read is None or price.written is None:
        return None
    return (tokens[0] * price.read + tokens[1] * price.written) / 1e6


def most_tokens(texts: Iterable[str], max_tokens: int) -> tuple[int, int]:
    """An upper guess of the tokens of a call that shows ``texts``."""
    whole = "".join(texts)
    plain = sum(sign.isascii() for sign in whole)
    return int(plain / _CHARACTERS_A_TOKEN + (len(whole) - plain) * _TOKENS_A_SIGN) + 32, max_tokens


@dataclass(slots=True)
class Budget:
    """Money that is spent. A call may begin while less than the limit is spent, so it is passed by the calls in flight at most.

    ``ledger`` says what is spent by all who share it, where there is one; it is asked each time."""

    limit: float | None
    spent: float = 0.0
    ledger: Callable[[], float] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_begin(self) -> bool:
        if self.limit is None:
            return True
        with self._lock:
            if self.ledger is not None:
                self.spent = self.ledger()
            return self.spent < self.limit * (1 - _ROUNDING)

    def add(self, cost: float | None) -> None:
        with self._lock:
            self.spent += cost or 0.0
