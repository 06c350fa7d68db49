"""Prompts, messages and candidates as plain JSON rows, and back, exactly. Every error names its field. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keel.core.errors import DataError
from keel.core.image_digest import image_digest
from keel.types import Candidate, ImagePart, Message, Prompt, TextPart


class RowError(DataError):
    """A row cannot become a record: ``field`` is wrong because of ``reason``. Who reads a file adds file and line."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}", "correct the row or leave it out")
        self.field, self.reason = field, reason


def get(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str = "") -> Any:
    """A field that must be there and of that type. True and false are no numbers. Raises RowError."""
    if name not in row:
        raise RowError(where + name, f"is missing (the row has: {', '.join(map(str, row))})")
    return typed(row[name], kind, where + name)


def typed(value: Any, kind: type | tuple[type, ...], field: str) -> Any:
    """The value, when it is of that type. Raises RowError naming ``field``."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise RowError(field, f"must be {' or '.join(k.__name__ for k in kinds)}, is {type(value).__name__}")
    return value


def optional(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any, where: str = "") -> Any:
    """A field that may be left out. Raises RowError when it is there and of another type."""
    return typed(row[name], kind, where + name) if name in row else default


def only(row: Mapping[str, Any], names: frozenset[str], where: str = "") -> None:
    """Raises RowError for a field that nothing reads: it would be lost."""
    unknown = [str(name) for name in row if name not in names]
    if unknown:
        raise RowError(where + unknown[0], f"is not a field of this row (known: {', '.join(sorted(names))})")


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """The columns of a prompt: text or messages (images in their places), tools, id, where it came from, meta."""
    said = prompt.text if prompt.text is not None else [message_row(m) for m in prompt.messages]
    tools = {"tools": [dict(t) for t in prompt.tools]} if prompt.tools else {}
    joint = {"joint": prompt.joint} if prompt.joint else {}
    return {
        "prompt_id": prompt.prompt_id,
        "prompt": said,
        **tools,
        "prompt_source_id": prompt.source_id,
        "meta": dict(prompt.meta),
        **joint,
    }


def asked_row(prompt: Prompt) -> dict[str, Any] | None:
    """The prompt beside the text of its last user's turn, for files that keep that one: {} where the turn is all of it, else `prompt_row`
    with no more of ``meta`` than category and language. None for pictures that are in the row itself: they would fill the file."""
    meta = {name: prompt.meta[name] for name in ("category", "language") if prompt.meta.get(name)}
    parts = [part for m in prompt.messages if not isinstance(m.content, str) for part in m.content]
    if any(isinstance(part, ImagePart) and part.source.startswith("data:") for part in parts):
        return None
    if prompt.messages == (Message("user", prompt.last_user_text),) and not prompt.tools and not meta:
        return {}
    return prompt_row(replace(prompt, meta=meta))


def prompt_from(row: Mapping[str, Any], where: str = "") -> Prompt:
    """The prompt of a row that `prompt_row` made. Raises RowError."""
    said = get(row, "prompt", (str, list), where)
    tools = row.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise RowError(f"{where}tools", "must be a list of objects")
    return Prompt(
        prompt_id=get(row, "prompt_id", str, where),
        messages=() if isinstance(said, str) else tuple(message_from(m, f"{where}prompt.{i}") for i, m in enumerate(said)),
        text=said if isinstance(said, str) else None,
        tools=tuple(tools),
        source_id=get(row, "prompt_source_id", str, where),
        meta=get(row, "meta", dict, where),
        joint=optional(row, "joint", str, "", where),
    )


def message_row(message: Message) -> dict[str, Any]:
    """A turn as a row; ``weight`` 0 marks one that is not to be trained."""
    content: Any = message.content
    if not isinstance(content, str):
        content = [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "image", "image": p.source} for p in content]
    row = {"role": message.role, "content": content, **({} if message.trained else {"weight": 0})}
    return row | {"extra": dict(message.extra)} if message.extra else row


def message_from(row: Any, where: str) -> Message:
    """The turn of a row that `message_row` made. Raises RowError."""
    if not isinstance(row, dict):
        raise RowError(where, "must be an object with role and content")
    at = f"{where}."
    content = get(row, "content", (str, list), at)
    role, extra, trained = get(row, "role", str, at), optional(row, "extra", dict, {}, at), row.get("weight", 1) != 0
    if isinstance(content, str):
        return Message(role, content, extra, trained)
    parts: list[TextPart | ImagePart] = []
    for i, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in ("text", "image"):
            raise RowError(f"{at}content.{i}", f"is an unknown content block of type {kind!r}; known: text, image")
        name = f"{at}content.{i}."
        parts.append(TextPart(get(block, "text", str, name)) if kind == "text" else ImagePart(get(block, "image", str, name)))
    return Message(role, tuple(parts), extra, trained)


def candidate_row(candidate: Candidate) -> dict[str, Any]:
    """An answer as a row; ``turns`` only where its text is not all of it."""
    row: dict[str, Any] = {"candidate_id": candidate.candidate_id, "text": candidate.text, "origin": dict(candidate.origin)}
    return row | {"turns": [message_row(m) for m in candidate.turns]} if candidate.turns else row


def candidate_from(row: Any, where: str) -> Candidate:
    """The answer of a row that `candidate_row` made. Raises RowError."""
    if not isinstance(row, dict):
        raise RowError(where, "must be an object with candidate_id and text")
    at = f"{where}."
    turns = tuple(message_from(m, f"{at}turns.{i}") for i, m in enumerate(optional(row, "turns", list, [], at)))
    return Candidate(get(row, "candidate_id", str, at), get(row, "text", str, at), optional(row, "origin", dict, {}, at), turns)


def by_bytes(message: Message) -> Message:
    """A turn whose images are named by the digest of their bytes; one that cannot be read keeps its path."""
    if isinstance(message.content, str):
        return message
    return replace(message, content=tuple(ImagePart(image_digest(p.source)) if isinstance(p, ImagePart) else p for p in message.content))
