"""Columns of one row -> typed values. Every accessor says which field is wrong, and why, when it is."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.sources import RawRow, json_type
from keel.data.turn_flags import check_block, split_flags
from keel.types import ImagePart, Message, Prompt, TextPart

IMAGE_MARK = "<image>"
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
_FOR_TEMPLATES = {  # columns that others hand to the chat template row by row
    "chat_template_kwargs": "set render.template_args for the whole file",
    "documents": "put their texts into a turn",
}
_EMPTY_CELLS = ("nan", "none", "null", "<na>", "#n/a")  # what tools write where a table has no value
_TABLES = (".csv", ".tsv", ".parquet")
_CALLS = ("function_call", "tool_call")
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value")


class Fields:
    """The columns of one row by Keel's names. Null counts as absent."""

    def __init__(self, row: RawRow, keys: Mapping[str, str]) -> None:
        theirs = {v: k for k, v in keys.items()}
        self.raw = row
        self.values: dict[str, Any] = {theirs.get(k, k): v for k, v in row.values.items() if v is not None}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def need(self, name: str) -> Any:
        if name not in self.values:
            raise FieldError(name, "is missing")
        self.no_empty_cell(name, self.values[name])
        return self.values[name]

    def no_empty_cell(self, name: str, value: Any) -> None:
        """Raises FieldError for a cell of a table that says no more than that it was empty (``nan``, ``None``, ``NULL``)."""
        if isinstance(value, str) and value.strip().lower() in _EMPTY_CELLS and self.raw.file.removesuffix(".gz").endswith(_TABLES):
            raise FieldError(name, f"is {value.strip()!r}, as tools write an empty cell; if it is meant, give the rows as .jsonl")

    def text(self, name: str) -> str:
        """A string with something in it besides white space."""
        value = self.need(name)
        if not isinstance(value, str):
            raise FieldError(name, f"must be text, is {json_type(value)}")
        if not value.strip():
            raise FieldError(name, "is empty")
        return value

    def optional_text(self, name: str) -> str:
        value = self.get(name, "")
        if not isinstance(value, str):
            raise FieldError(name, f"must be text, is {json_type(value)}")
        self.no_empty_cell(name, value)
        if value.strip().lower() == "nan":
            raise FieldError(name, "is 'nan', as tools write an empty cell: leave it empty")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name, default)
        if value is None:
            raise FieldError(name, "is missing")
        return as_number(name, value)

    def flag(self, name: str) -> bool:
        return as_flag(name, self.need(name))

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object; nothing is an empty one."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise FieldError(name, f"must be an object, is {json_type(value)}")
        return value

    def list(self, name: str, item: type | None = None) -> list[Any]:
        value = self.need(name)
        if not isinstance(value, list) or not value:
            raise FieldError(name, f"must be a list with something in it, is {'empty' if value == [] else json_type(value)}")
        for i, entry in enumerate(value):
            if item is not None and not isinstance(entry, item):
                raise FieldError(f"{name}.{i}", f"must be {'text' if item is str else 'an object'}, is {json_type(entry)}")
        return value

    def messages(self, name: str) -> tuple[Message, ...]:
        """A list of ``{role, content}`` or ``{from, value}``."""
        return as_messages(name, self.list(name))

    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """The ``tools`` column: a list of schemas, or the same as a JSON string. ``functions`` is OpenAI's older name."""
        value = self.get("tools", self.get("functions"))
        if isinstance(value, str):
            if not value.strip():
                return ()
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise FieldError("tools", f"broken JSON: {error.msg}") from None
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
            raise FieldError("tools", f"must be a list of objects, is {json_type(value)}")
        return tuple(_tool(t) for t in value)

    def images(self) -> tuple[ImagePart, ...]:
        """The ``images`` or ``image`` column: paths, ``data:`` URLs, ``{path, bytes}``, or decoded images."""
        value = self.get("images", self.get("image"))
        if value is None:
            return ()
        entries: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
        return tuple(as_image(f"images.{i}", entry, self.raw.folder) for i, entry in enumerate(entries))


def _tool(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool's schema in the form that chat templates read: ``{type: function, function: {name, ...}}``."""
    if "function" in schema or not isinstance(schema.get("name"), str) or schema.get("type", "function") != "function":
        return schema
    return {"type": "function", "function": {k: v for k, v in schema.items() if k != "type"}}


def as_number(name: str, value: Any) -> float:
    """A finite number; text that is one counts (CSV)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise FieldError(name, f"must be a number, is {value[:40]!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(name, f"must be a number, is {json_type(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FieldError(name, f"must be a finite number, is {str(value)[:40]}")
    return number


def as_flag(name: str, value: Any) -> bool:
    """A boolean; 0/1 and "true"/"false" count (CSV)."""
    known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() in known:
        return known[str(value).lower()]
    raise FieldError(name, f"must be true or false, is {str(value)[:40]!r}")


def as_messages(name: str, value: Any) -> tuple[Message, ...]:
    """Messages from dictionaries; roles mapped to system, user, assistant, tool."""
    if not isinstance(value, list | tuple):
        raise FieldError(name, f"must be a list of messages, is {json_type(value)}")
    return tuple(as_message(f"{name}.{i}", entry) for i, entry in enumerate(value))


def as_message(name: str, value: Any) -> Message:
    """One message from ``{role, content}`` (chat) or ``{from, value}`` (ShareGPT); other keys go to ``extra``."""
    if not isinstance(value, dict):
        raise FieldError(name, f"must be an object with role and content, is {json_type(value)}")
    role_key = next((k for k in _ROLE_KEYS if k in value), None)
    text_key = next((k for k in _TEXT_KEYS if k in value), None)
    if role_key is None:
        raise FieldError(name, f"has no role (keys: {', '.join(value)})")
    role = value[role_key]
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"{name}.{role_key}", f"unknown role {role!r}; known: system, user, assistant, tool")
    more = value.get("extra") or {}
    if not isinstance(more, dict):
        raise FieldError(f"{name}.extra", f"must be an object, is {json_type(more)}")
    rest = {k: v for k, v in value.items() if k not in (role_key, text_key, "extra") and v not in (None, [])}
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


def _as_calls(name: str, calls: Any) -> list[dict[str, Any]]:
    """Tool calls as templates read them: a list of ``{function: {name, arguments}}``, or of ``{name, arguments}``. ``parameters`` is
    another name of the arguments; a call without any has none."""
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


def place_images(messages: Sequence[Message], images: Sequence[ImagePart], folder: str) -> tuple[Message, ...]:
    """Put images where ``<image>`` marks or empty image blocks stand; without any mark, before the text of the first user turn.

    Raises FieldError when marks and images do not match one to one.
    """
    filled = [_resolved(m, folder) for m in messages]
    slots = sum(_slots(m, bool(images)) for m in filled)
    if not images and not slots:
        return tuple(filled)
    if images and not slots:
        first = next((i for i, m in enumerate(filled) if m.role == "user"), None)
        if first is None:
            raise FieldError("images", "there is no user turn to put them into")
        m = filled[first]
        parts = (TextPart(m.content),) if isinstance(m.content, str) else m.content
        filled[first] = replace(m, content=(*images, *parts))
        return tuple(filled)
    if slots != len(images):
        raise FieldError("images", f"{len(images)} images for {slots} {IMAGE_MARK} places in the messages")
    left = iter(images)
    return tuple(_fill(m, left) for m in filled)


def _slots(message: Message, marks_count: bool) -> int:
    """Places for images in one message. A mark is one only when there are images: text may speak of ``<image>``."""
    if isinstance(message.content, str):
        return message.content.count(IMAGE_MARK) if marks_count and message.role == "user" else 0
    empty = sum(isinstance(p, ImagePart) and not p.source for p in message.content)
    return empty + sum(p.text.count(IMAGE_MARK) for p in message.content if isinstance(p, TextPart) and marks_count)


def _fill(message: Message, images: Iterable[ImagePart]) -> Message:
    if _slots(message, True) == 0:
        return message
    left = iter(images)
    parts: list[TextPart | ImagePart] = []
    for part in (TextPart(message.content),) if isinstance(message.content, str) else message.content:
        if isinstance(part, ImagePart):
            parts.append(part if part.source else next(left))
            continue
        for i, piece in enumerate(part.text.split(IMAGE_MARK)):
            if i:
                parts.append(next(left))
            if piece:
                parts.append(TextPart(piece))
    return replace(message, content=tuple(parts))


def _resolved(message: Message, folder: str) -> Message:
    if isinstance(message.content, str):
        return message
    parts = tuple(
        ImagePart(str(Path(folder) / p.source)) if isinstance(p, ImagePart) and p.source and not p.source.startswith("data:") else p
        for p in message.content
    )
    return replace(message, content=parts)


def prompt_key(messages: Sequence[Message], text: str | None, tools: Sequence[Mapping[str, Any]] = (), folder: str = "") -> str:
    """Stable id of a prompt's content, also when its ``folder`` of images moves. A bare string and the same string as the only user turn
    are the same prompt."""
    if text is not None:
        messages = (Message("user", text),)
    content = [[m.role, _plain(m.content, folder), dict(m.extra)] for m in messages]
    canonical = json.dumps([content, list(tools)], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(content: str | tuple[TextPart | ImagePart, ...], folder: str) -> Any:
    if isinstance(content, str):
        return content
    return [["text", p.text] if isinstance(p, TextPart) else ["image", p.source.removeprefix(folder).lstrip("/\\")] for p in content]


def make_prompt(fields: Fields, messages: Sequence[Message], text: str | None, meta: Mapping[str, Any], joint: str = "") -> Prompt:
    """A Prompt with its images in place, its id, and the columns that the layout does not know as ``meta``; ``joint`` as in ``Prompt``.
    Refuses an empty one."""
    for name, way_out in _FOR_TEMPLATES.items():
        if fields.get(name):
            raise FieldError(name, f"is not handed to the chat template: {way_out}; data.keys={{unused: {name}}} sets the column aside")
    if text is not None and fields.images():
        messages, text = (Message("user", text),), None
    if text is None:
        messages = place_images(messages, fields.images(), fields.raw.folder)
        if not any(m.role != "system" and (m.content or m.extra) for m in messages):
            raise FieldError("prompt", "is empty")
    tools = fields.tools()
    given = fields.get("prompt_id")
    key = str(given) if given is not None else prompt_key(messages, text, tools, fields.raw.folder)
    place = fields.optional_text("prompt_source_id") or fields.raw.place  # rows that Keel wrote know where their prompts came from
    read = tuple(replace(m, trained=True) for m in messages)  # no turn of a prompt is trained, whatever its marks
    return Prompt(key, read, text, tools, place, dict(meta), joint)
