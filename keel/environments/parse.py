"""An answer -> its thoughts, its text, its tool calls: by the tokenizer's own response template where it has one, else by the tags
``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from keel.environments.tools import Call
from keel.render.conversation import Said
from keel.types import Message

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parsed:
    """``message``: the answer without thoughts and calls, which are in its ``extra``; ``calls``: all of them, also those that could not be
    read."""

    message: Message
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Parser:
    """``tokenizer``: the model's; only its ``response_template`` and ``parse_response`` are used."""

    tokenizer: Any

    def __call__(self, raw: str, text: str, head: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
        """``raw``: the answer with its special tokens, but the end; ``text``: without them; ``head``: the text before it. Never raises."""
        if tools and getattr(self.tokenizer, "response_template", None) is not None:
            try:
                found: Any = self.tokenizer.parse_response(raw, prefix=head, tools=list(tools))
                return _of_parsed(cast("Mapping[str, Any]", found), text)
            except Exception as error:  # the model wrote what its own format does not have
                return Parsed(Message("assistant", text), (Call(error=f"the answer could not be read: {error}"),))
        said = Said.of(text)
        body = Said.of(raw).content if "<tool_call>" in raw else said.content
        calls = tuple(_call(found) for found in _CALL.findall(body)) if tools else ()
        content = _CALL.sub("", said.content).strip() if calls else said.content
        return Parsed(Message("assistant", content, _extra(said.thought, calls)), calls)


def _call(text: str) -> Call:
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        return Call(error=f"the tool call is no JSON: {error}")
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return Call(error='a tool call is an object with "name" and "arguments"')
    return _named(found["name"], found.get("arguments", found.get("parameters", {})))


def _named(name: str, arguments: Any) -> Call:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            return Call(name, error=f"the arguments of {name!r} are no JSON: {error}")
    if not isinstance(arguments, dict):
        return Call(name, error=f"the arguments of {name!r} are no object")
    return Call(name, cast("dict[str, Any]", arguments))


def _of_parsed(found: Mapping[str, Any], text: str) -> Parsed:
    calls: list[Call] = []
    for call in found.get("tool_calls") or ():
        function: Any = call.get("function") or call
        calls.append(_named(str(function.get("name", "")), function.get("arguments") or {}))
    thought = next((found[k] for k in ("reasoning_content", "thinking", "reasoning") if found.get(k)), None)
    content = found.get("content")
    return Parsed(Message("assistant", content if isinstance(content, str) else "", _extra(thought, tuple(calls))), tuple(calls))


def _extra(thought: str | None, calls: Sequence[Call]) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments or {})}} for c in calls if not c.error]
    return {**({"reasoning_content": thought} if thought is not None else {}), **({"tool_calls": made} if made else {})}
