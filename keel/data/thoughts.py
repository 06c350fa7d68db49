"""Reasoning that a file keeps beside a turn's text, under whatever key: ``reasoning_content``, ``thinking``, ``cot`` ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_KEY = re.compile(r"think|thought|reasoning|rationale|scratchpad|monologue|chain_?of|(?:\A|_)cot(?:_|\Z)|思考|思维|推理", re.IGNORECASE)
# What is about a thought and is none: reasoning_effort, thinking_budget, thought_signature, has_thinking
_ABOUT = re.compile(
    r"(?:effort|tokens?|budget|modes?|format|levels?|enabled?|disabled?|id|signature|time|duration|seconds|model|type|kind|lang|language|"
    r"length|count|score|parser|config|status|flag)\Z|\A(?:is|has|use|enable|disable|no|with|show|hide)_",
    re.IGNORECASE,
)
_LABELS = ("type", "id", "format", "index", "signature", "data", "role", "status", "encrypted_content")  # of an entry, no text of it


def is_thought(key: str) -> bool:
    """Is ``key`` the name of a turn's reasoning?"""
    return bool(_KEY.search(key)) and not _ABOUT.search(key)


def thoughts_in(turn: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, text) of all reasoning among the keys of a turn; lists of entries with texts (``reasoning_details``) too."""
    for key, value in turn.items():
        if is_thought(key):
            yield from ((key, text) for text in _texts(value) if text.strip())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _LABELS:
                yield from _texts(inner)
