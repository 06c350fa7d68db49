"""Rows -> prompts as Keel's records have them. No torch: the front stores what is said of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keel.serve.policy.frames import Row
from keel.types import ImagePart, Message, Prompt, TextPart


def prompt_of(row: Row) -> Prompt:
    """The prompt of a row."""
    if row.prompt is not None:
        return Prompt(row.name, text=row.prompt)
    return Prompt(row.name, tuple(map(message_of, row.messages)), tools=row.tools)


def message_of(one: Mapping[str, Any]) -> Message:
    """A message as a request has it."""
    content = one["content"]
    if not isinstance(content, str):
        content = tuple(ImagePart(p["source"]) if p["type"] == "image" else TextPart(p["text"]) for p in content)
    return Message(one["role"], content, {k: v for k, v in one.items() if k not in ("role", "content")})
