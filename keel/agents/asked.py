"""What an agent's request may ask for, by which messages it goes on from an earlier one, and how its answer is written. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from keel.serve.policy.replies import Choice, Head, streamed, whole
from keel.serve.policy.requests import Asked, RequestError
from keel.types import SamplingParams

_SAMPLED = ("temperature", "top_p", "top_k")


def check_sampling(body: Mapping[str, Any], drawn: SamplingParams, usual: SamplingParams | None = None) -> None:
    """What is trained is what was drawn as the run draws, so a request may ask for nothing else. ``usual``: the training's own, which an
    agent may send in evaluations too; ``drawn`` is what counts.

    Raises:
        RequestError: a distribution, stop strings or seeds of its own; log-probabilities where those of the policy at temperature 1 are not
            at hand.
    """
    own = (drawn, *([usual] if usual is not None else []))
    for name in _SAMPLED:
        asked = body.get(name)
        if asked is not None and asked not in [getattr(params, name) for params in own]:
            raise RequestError(
                f"is {asked}, the run draws with {getattr(own[-1], name)}: leave it out, or set sampling.{name} in the recipe", name
            )
    stop = body.get("stop") or []
    stops = {stop} if isinstance(stop, str) else set(stop)
    if stops and all(stops != set(params.stop) for params in own):
        raise RequestError(f"is not the run's ({list(own[-1].stop)}): leave it out, or set sampling.stop in the recipe", "stop")
    if body.get("seed") is not None:
        raise RequestError("the run's own seeds say what is drawn: leave it out", "seed", code="unsupported_parameter")
    if body.get("top_logprobs"):
        raise RequestError("of the drawn tokens alone: leave it out", "top_logprobs", code="unsupported_parameter")
    if body.get("logprobs") and (drawn.cut or drawn.temperature != 1 or drawn.explore):
        raise RequestError("are told where the run draws at temperature 1 from all tokens", "logprobs", code="unsupported_parameter")


def history(tools: Sequence[Mapping[str, Any]], messages: Sequence[Mapping[str, Any]], before: bytes = b"") -> list[bytes]:
    """A digest of what stands before each message, and of all: ``[n]`` is of the tools and the first ``n`` messages. ``before``: that of
    earlier messages, in place of the tools'."""
    found = [before or _digest(b"", list(tools))]
    for message in messages:
        found.append(_digest(found[-1], _plain(message)))
    return found


def _digest(before: bytes, value: Any) -> bytes:
    return hashlib.sha256(before + json.dumps(value, sort_keys=True).encode()).digest()


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message says, however a client writes it: content null or empty, arguments as text or an object, ids of calls."""
    more = {name: message[name] for name in ("name", "tool_call_id", "reasoning_content") if message.get(name)}
    made = [call.get("function", call) for call in message.get("tool_calls") or ()]
    calls = [(call.get("name"), _read(call.get("arguments"))) for call in made]
    return {"role": message["role"], "content": message["content"] or "", **more, **({"calls": calls} if calls else {})}


def _read(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments


def written(head: Head, asked: Asked, choice: Choice, prompt_tokens: int) -> tuple[bytes, str]:
    """The answer's body and its type. A stream holds it in one chunk: it is drawn whole."""
    if asked.stream:
        return streamed(head, [choice], prompt_tokens, asked.usage_in_stream), "text/event-stream"
    body = whole(head, [choice], prompt_tokens, asked.rows[0].top is not None)
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"), "application/json"
