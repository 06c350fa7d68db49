"""A reply of OpenAI's chat protocol, as far as a judge reads it; and what a call without one may have cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, cast

_MOST_COUNTED = 2**53  # tokens; whoever tells more has counted none


class CallError(Exception):
    """No reply to one call. ``paid``: it may have been charged all the same."""

    def __init__(self, message: str, paid: bool = False) -> None:
        super().__init__(message)
        self.paid = paid


def reply_of(response: Any) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Text, log-probabilities of the first token, how it ended, and tokens of a chat completion. Raises CallError for another shape: it
    was paid."""
    try:
        found = response.json()
        choice = found["choices"][0]
        text = choice["message"]["content"]
        first = (((choice.get("logprobs") or {}).get("content")) or [None])[0]
        top = None if first is None else _top(first)
        finish = str(choice.get("finish_reason") or "")
        usage = found.get("usage") or {}
        tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise CallError(f"call: the reply is not of the chat protocol: {type(error).__name__} {error}", paid=True) from None
    # nobody reads a prompt of no token, or writes a text of none: who says so has not counted
    least = (1, 1 if text else 0)
    counted = all(isinstance(t, int) and not isinstance(t, bool) and n <= t < _MOST_COUNTED for t, n in zip(tokens, least, strict=True))
    reply = {"text": text if isinstance(text, str) else "", "top": top, "finish": finish}
    return reply, cast("tuple[int, int]", tokens) if counted else None


def _top(first: dict[str, Any]) -> dict[str, float]:
    rows = first.get("top_logprobs") or [first]
    found: dict[str, float] = {}
    for row in rows:
        found[row["token"]] = max(row["logprob"], found.get(row["token"], -math.inf))
    return {token: logprob for token, logprob in found.items() if logprob != -math.inf}


def asked_pause(text: str, now: Callable[[], float] = time.time) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 for none."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (TypeError, ValueError):
        return 0.0
