"""What clients wrote, as texts for rules and scores. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from keel.serve.policy.frames import Row


def texts_of(rows: Sequence[Row]) -> list[str]:
    """All that the client wrote and the model reads: turns, raw prompts, tools with their calls and results, for filters."""
    found: list[str] = []
    for row in rows:
        found += [row.prompt] if row.prompt is not None else []
        found += [text for tool in row.tools for text in _texts_in(tool)]
        for message in row.messages:
            found.append(_said(message))
            found += [text for name, value in message.items() if name not in ("role", "content") for text in _texts_in(value)]
    return list(dict.fromkeys(found))


def question_of(row: Row) -> str:
    """What a score is asked beside the answer: the turns, or the raw prompt."""
    return row.prompt if row.prompt is not None else "\n".join(map(_said, row.messages))


def _said(message: Mapping[str, Any]) -> str:
    """A turn's text. Parts stand side by side: a word that is cut over two of them is one word to the model too."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def _texts_in(value: Any) -> list[str]:
    """All texts of a JSON value, names of fields too. Arguments of a call are JSON in a text: what they say is looked at as well."""
    found, open_ = list[str](), [value]
    while open_:
        one = open_.pop()
        if isinstance(one, Mapping):
            open_ += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            open_ += one
        elif isinstance(one, str):
            found.append(one)
            open_ += _unpacked(one)
    return found


def _unpacked(text: str) -> list[Any]:
    """The object or list that a text is the JSON of."""
    if not text.lstrip().startswith(("{", "[")):
        return []
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [inner] if isinstance(inner, dict | list) else []
