"""Turns of a conversation, in the forms that files have: ``{role, content}``, ``{from, value}``, content blocks, tool calls, images."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.rows import json_type, parse_json
from keel.data.thoughts import is_thought, thoughts_in
from keel.data.turn_flags import check_block, split_flags
from keel.types import ImagePart, Message, TextPart

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_results": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "environment": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
_CALLS = ("function_call", "tool_call")
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")


def as_messages(name: str, value: Any) -> tuple[Message, ...]:
    """Messages from dictionaries; roles mapped to system, user, assistant, tool."""
    if not isinstance(value, list | tuple):
        raise FieldError(name, f"must be a list of messages, is {json_type(value)}")
    return tuple(as_message(f"{name}.{i}", entry) for i, entry in enumerate(value))


def as_message(name: str, value: Any) -> Message:
    """One message from ``{role, content}`` (chat) or ``{from, value}`` (ShareGPT); other keys go to ``extra``."""
    if not isinstance(value, dict):
        raise FieldError(name, f"must be an object with role and content, is {json_type(value)}")
    role_key, text_key = _one_of(name, value, _ROLE_KEYS, lambda v: ROLES.get(_role(v), v)), _one_of(name, value, _TEXT_KEYS)
    if role_key is None:
        raise FieldError(name, f"has no role (keys: {', '.join(value)})")
    role = value[role_key]
    if _role(role) not in ROLES:
        known = "system, user, assistant, tool"
        raise FieldError(f"{name}.{role_key}", f"unknown role {role!r}; known: {known} (and human, gpt ...): rename it in the file")
    role = _role(role)
    more = value.get("extra") or {}
    if not isinstance(more, dict):
        raise FieldError(f"{name}.extra", f"must be an object, is {json_type(more)}")
    rest = {k: v for k, v in value.items() if k not in (*_ROLE_KEYS, *_TEXT_KEYS, "extra") and v not in (None, [], "[]")}
    extra, trained = split_flags(name, rest | more, ROLES[role])
    if "function_call" in extra and "tool_calls" not in extra:  # OpenAI's older way
        extra["tool_calls"] = _calls(f"{name}.function_call", extra.pop("function_call"))
    if "tool_calls" in extra:
        extra["tool_calls"] = _as_calls(f"{name}.tool_calls", extra["tool_calls"])
    content = value.get(text_key) if text_key else None
    if role in _CALLS:
        extra["tool_calls"] = _calls(f"{name}.{text_key}", content)
        content = ""
    if content is None:
        if not (role == "assistant" and "tool_calls" in extra):
            raise FieldError(name, "has no content")
        content = ""
    return Message(ROLES[role], as_content(f"{name}.{text_key or 'content'}", content), extra, trained or ROLES[role] != "assistant")


def _role(value: Any) -> Any:
    """A role as ``ROLES`` writes it: small letters, no spaces around. Empty for what is no text."""
    return value.strip().lower() if isinstance(value, str) else ""


def _one_of(name: str, value: Mapping[str, Any], keys: Sequence[str], form: Callable[[Any], Any] | None = None) -> str | None:
    """The one of several keys that is there. Raises FieldError when two of them say different things: one would be left out."""
    there = [k for k in keys if value.get(k) is not None] or [k for k in keys if k in value]
    said = [value[k] if form is None else form(value[k]) for k in there]
    if any(s != said[0] for s in said):
        raise FieldError(name, f"{' and '.join(there)} say different things: leave one of them")
    return there[0] if there else None


def as_list(name: str, value: Any) -> Any:
    """A list that a file keeps as JSON text (a column of a table can hold no other); other values as they are."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        python = "'role':" in value or "'content':" in value or "'from':" in value or "'name':" in value
        what = "is a list as Python writes it; write JSON (json.dumps)" if python else f"broken JSON: {error}"
        raise FieldError(name, what) from None


def _as_calls(name: str, calls: Any) -> list[dict[str, Any]]:
    """Tool calls as templates read them: a list of ``{function: {name, arguments}}``, or of ``{name, arguments}``. ``parameters`` is
    another name of the arguments; a call without any has none."""
    calls = as_list(name, calls)
    if not isinstance(calls, list):
        raise FieldError(name, f"must be a list of objects, is {json_type(calls)}")
    found: list[dict[str, Any]] = []
    for i, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise FieldError(f"{name}.{i}", "a tool call needs a name and arguments")
        if "arguments" in function and "parameters" in function:
            raise FieldError(f"{name}.{i}", "a tool call has arguments or parameters, not both")
        given = function.get("arguments", function.get("parameters"))
        function = {**{k: v for k, v in function.items() if k != "parameters"}, "arguments": {} if given is None else given}
        found.append({**call, "function": function} if "function" in call else function)
    return found


def _calls(name: str, content: Any) -> list[dict[str, Any]]:
    """The calls of a turn whose text is the call."""
    try:
        found = json.loads(content) if isinstance(content, str) else content
    except json.JSONDecodeError as error:
        raise FieldError(name, f"a tool call must be JSON: {error.msg}") from None
    calls = _as_calls(name, found if isinstance(found, list) else [found])
    return [c if "function" in c else {"type": "function", "function": c} for c in calls]


def as_content(name: str, value: Any) -> str | tuple[TextPart | ImagePart, ...]:
    """Text, or content blocks: ``{type: text}``, ``{type: image}``, ``{type: image_url}``. Blocks of text alone become plain text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise FieldError(name, f"must be text or a list of content blocks, is {json_type(value)}")
    parts: list[TextPart | ImagePart] = []
    for i, block in enumerate(value):
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(block, dict):
            check_block(f"{name}.{i}", block)
            _no_thought(f"{name}.{i}", block)
        if kind == "text" and isinstance(block.get("text"), str):
            parts.append(TextPart(block["text"]))
        elif kind in ("image", "image_url"):
            source = next((block[k] for k in ("image_url", "image", "url", "path", "source") if block.get(k) is not None), "")
            parts.append(ImagePart(source) if source == "" else as_image(f"{name}.{i}", source, ""))
        else:
            raise FieldError(f"{name}.{i}", f"unknown content block of type {kind!r}; known: text, image, image_url")
    if all(isinstance(p, TextPart) for p in parts):
        return "".join(p.text for p in parts if isinstance(p, TextPart))
    return tuple(parts)


def _no_thought(name: str, block: Mapping[str, Any]) -> None:
    """A content block that is or holds reasoning would lose it. Raises FieldError."""
    kind = str(block.get("type"))
    if is_thought(kind) or any(True for _ in thoughts_in(block)):
        what = "holds reasoning, which no content block can: put its text into the turn's key reasoning_content, or as"
        raise FieldError(name, f"{what} <think>...</think> into the text")


def as_image(name: str, value: Any, folder: str) -> ImagePart:
    """A path (relative ones start at ``folder``), a ``data:`` URL, ``{path | url | bytes}``, or a decoded image."""
    if isinstance(value, dict):
        inner = value.get("bytes") or value.get("url") or value.get("path")
        if inner is None:
            raise FieldError(name, f"an image needs bytes, url or path (keys: {', '.join(value)})")
        value = inner
    if isinstance(value, bytes):
        return ImagePart("data:image;base64," + base64.b64encode(value).decode())
    if hasattr(value, "save") and hasattr(value, "tobytes"):  # a decoded image of the datasets package
        import io

        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return ImagePart("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    if not isinstance(value, str) or not value:
        raise FieldError(name, f"must be a path or a data: URL, is {json_type(value)}")
    if value.startswith(("http://", "https://")):
        raise FieldError(name, "images on the web are not fetched; download them and give paths")
    if value.startswith("data:"):
        return ImagePart(value)
    return ImagePart(str(Path(folder) / value))
