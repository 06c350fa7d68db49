"""Turns of conversations as rows (``Conversation.told``), and what people read of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def turn_row(turn: Any) -> Mapping[str, Any]:
    """A turn of a file; older ones hold who and what was said alone."""
    return turn if isinstance(turn, Mapping) else {"role": str(turn[0]), "text": str(turn[1])}


def turn_text(turn: Mapping[str, Any]) -> str:
    """Thought (in brackets), what was said, which tools were called: each on lines of its own."""
    calls = [call.get("function") or call for call in turn.get("tool_calls") or ()]
    told = [f"{call.get('name', '')}({json.dumps(call.get('arguments'), ensure_ascii=False)})" for call in calls]
    thought = turn.get("reasoning_content")
    return "\n".join(part for part in (thought and f"({thought})", turn.get("text", ""), *told) if part)
