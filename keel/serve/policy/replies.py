"""What was drawn -> OpenAI's answers and chunks. Pure functions. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.serve.policy.frames import TokenText
from keel.serve.policy.requests import Kind


@dataclass(slots=True)
class Choice:
    """One answer as it stands."""

    text: str = ""
    tokens: list[TokenText] = field(default_factory=list[TokenText])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish: str = ""  # stop, length, tool_calls, content_filter
    ids: int = 0  # tokens drawn
    note: str = ""  # which rule stopped it
    written: str = ""  # what the model wrote, calls of tools too, without what a rule put in its place


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of an answer begin with."""

    kind: Kind
    answer_id: str
    created: int
    model: str
    fingerprint: str

    def to_json(self, chunk: bool) -> dict[str, Any]:
        names = {"chat": "chat.completion" + (".chunk" if chunk else ""), "text": "text_completion"}
        head = {"id": self.answer_id, "object": names[self.kind], "created": self.created, "model": self.model}
        return head | {"system_fingerprint": self.fingerprint}


def usage(prompt_tokens: int, choices: Sequence[Choice]) -> dict[str, int]:
    """Tokens of all prompts, each once, and of all answers."""
    drawn = sum(choice.ids for choice in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": drawn, "total_tokens": prompt_tokens + drawn}


def whole(head: Head, choices: Sequence[Choice], prompt_tokens: int, with_logprobs: bool) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    found: list[dict[str, Any]] = []
    for index, choice in enumerate(choices):
        one: dict[str, Any] = {"index": index, "finish_reason": choice.finish, "logprobs": None}
        if with_logprobs:
            one["logprobs"] = chat_logprobs(choice.tokens) if head.kind == "chat" else text_logprobs(choice.tokens)
        if head.kind == "chat":
            message: dict[str, Any] = {"role": "assistant", "content": choice.text or (None if choice.calls else ""), "refusal": None}
            one["message"] = message | ({"tool_calls": choice.calls} if choice.calls else {})
        else:
            one["text"] = choice.text
        if choice.note:
            one["content_filter"] = choice.note
        found.append(one)
    return head.to_json(False) | {"choices": found, "usage": usage(prompt_tokens, choices)}


def chunk(head: Head, index: int, text: str = "", tokens: Sequence[TokenText] = (), finish: str = "", **more: Any) -> dict[str, Any]:
    """One piece of a streamed answer. ``more``: ``role`` in the first one, ``tool_calls`` and ``note`` in the last one."""
    one: dict[str, Any] = {"index": index, "finish_reason": finish or None, "logprobs": None}
    if head.kind == "chat":
        delta: dict[str, Any] = {"role": more["role"]} if more.get("role") else {}
        if text or more.get("role"):
            delta["content"] = text
        if more.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(more["tool_calls"])]
        one["delta"] = delta
        one["logprobs"] = chat_logprobs(tokens) if tokens else None
    else:
        one["text"] = text
        one["logprobs"] = text_logprobs(tokens) if tokens else None
    if more.get("note"):
        one["content_filter"] = more["note"]
    return head.to_json(True) | {"choices": [one]}


def streamed(head: Head, choices: Sequence[Choice], prompt_tokens: int, with_usage: bool) -> bytes:
    """Answers that are there whole, as the events of a stream: one chunk each."""
    role = "assistant" if head.kind == "chat" else ""
    parts = [chunk(head, i, c.text, c.tokens, c.finish, role=role, tool_calls=c.calls, note=c.note) for i, c in enumerate(choices)]
    parts += [usage_chunk(head, prompt_tokens, choices)] if with_usage else []
    return b"".join([*map(event, parts), event("[DONE]")])


def usage_chunk(head: Head, prompt_tokens: int, choices: Sequence[Choice]) -> dict[str, Any]:
    """The last chunk, where the client asked for it."""
    return head.to_json(True) | {"choices": [], "usage": usage(prompt_tokens, choices)}


def chat_logprobs(tokens: Sequence[TokenText]) -> dict[str, Any]:
    """Log-probabilities as /v1/chat/completions gives them."""
    content = [_entry(t.text, t.logprob) | {"top_logprobs": [_entry(w, p) for w, p in t.top]} for t in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenText]) -> dict[str, Any]:
    """Log-probabilities as /v1/completions gives them."""
    offsets, at = list[int](), 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    top = [dict(t.top) for t in tokens]
    return {
        "tokens": [t.text for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": top if any(top) else None,
        "text_offset": offsets,
    }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    """``bytes`` of a token that is part of a character only are not known."""
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode("utf-8", "replace"))}


def event(body: Mapping[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode("utf-8", "replace")


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": message if param is None else f"{param}: {message}", "type": kind, "param": param, "code": code}}
