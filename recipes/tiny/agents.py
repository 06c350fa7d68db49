"""The game of `worlds.py` as an agent that plays it by itself: it asks an OpenAI endpoint for the guesses."""

from __future__ import annotations

import json
import random
import urllib.request
from typing import Any

from keel.types import Endpoint, Prompt


def ask(endpoint: Endpoint, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the policy answers to these messages: one of OpenAI's choices."""
    head = {"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"}
    body = json.dumps({"model": endpoint.model, "messages": messages}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint.base_url}/chat/completions", body, head)) as reply:
        return json.loads(reply.read())["choices"][0]


def guess_number(prompt: Prompt, endpoint: Endpoint, seed: int, high: int = 9, guesses: int = 4, price: float = 0.2) -> float:
    """A number from 1 to ``high`` is hidden. After a wrong guess the policy is told where it is: in a range of 3, then in one of 1. Found
    at once it is worth 1, each further guess costs ``price``; not found in ``guesses``, or in an answer that was cut, nothing."""
    chance = random.Random(seed)
    hidden = chance.randint(1, high)
    low = chance.randint(max(1, hidden - 2), min(hidden, high - 2))
    messages: list[dict[str, Any]] = [{"role": m.role, "content": m.text} for m in prompt.messages]
    for made in range(guesses):
        choice = ask(endpoint, messages)
        if choice["finish_reason"] == "length":
            return 0.0
        if choice["message"]["content"].strip() == str(hidden):
            return 1.0 - price * made
        said = f"{low} to {low + 2}" if made == 0 else f"{hidden} to {hidden}"
        messages += [choice["message"], {"role": "user", "content": said}]
    return 0.0
