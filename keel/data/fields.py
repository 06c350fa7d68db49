"""Columns of one row -> typed values. Every accessor says which field is wrong, and why, when it is."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keel.data.errors import FieldError
from keel.data.rows import RawRow, json_type
from keel.data.turns import as_image, as_list, as_messages
from keel.runs.logs import plain
from keel.types import ImagePart, Message, Prompt, TextPart

IMAGE_MARK = "<image>"
_MARKS_FIRST = re.compile(rf"\A(?:\s*{IMAGE_MARK}\s*)+")
_MARKS_LAST = re.compile(rf"(?:\s*{IMAGE_MARK})+\s*\Z")
_FOR_TEMPLATES = {  # columns that others hand to the chat template row by row
    "chat_template_kwargs": "set render.template_args for the whole file",
    "documents": "put their texts into a turn",
}
_EMPTY_CELLS = ("nan", "none", "null", "<na>", "#n/a")  # what tools write where a table has no value
SYSTEM = ("system", "system_prompt", "system_message")  # columns with a system prompt
_TABLES = (".csv", ".tsv", ".parquet")


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
        value = as_list(name, self.need(name))
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


def tidy_marks(messages: Sequence[Message], images: Sequence[ImagePart]) -> tuple[Message, ...]:
    """Turns without the white space that LLaVA's files write between the marks at a user turn's beginning or end and its text. Only where
    there are images."""
    if not images:
        return tuple(messages)
    return tuple(replace(m, content=_tidy(m.content)) if isinstance(m.content, str) and m.role == "user" else m for m in messages)


def _tidy(text: str) -> str:
    head = _MARKS_FIRST.match(text)
    text = IMAGE_MARK * head[0].count(IMAGE_MARK) + text[head.end() :] if head else text
    tail = _MARKS_LAST.search(text)
    return text[: tail.start()] + IMAGE_MARK * tail[0].count(IMAGE_MARK) if tail else text


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


def _with_system(fields: Fields, messages: Sequence[Message], text: str | None) -> tuple[Sequence[Message], str | None]:
    """Messages and text of a prompt with the row's system prompt in front. Raises FieldError where another one stands there."""
    name = next((n for n in SYSTEM if n in fields and fields.optional_text(n).strip()), None)
    if name is None:
        return messages, text
    system, aside = fields.optional_text(name), f"; data.keys={{unused: {name}}} sets the column aside"
    if any(n in fields and fields.optional_text(n).strip() not in ("", system.strip()) for n in SYSTEM):
        raise FieldError(name, f"is another one than that of the other system columns{aside}")
    if text is not None and not text:
        raise FieldError(name, f"stands beside a plain text, which has no turns{aside}")
    if text is not None:
        messages = (Message("user", text),)
    if messages and messages[0].role == "system":
        if messages[0].text.strip() != system.strip():
            raise FieldError(name, f"is another one than the system turn of the conversation{aside}")
        return messages, None
    return (Message("system", system), *messages), None


def make_prompt(fields: Fields, messages: Sequence[Message], text: str | None, meta: Mapping[str, Any], joint: str = "") -> Prompt:
    """A Prompt with its images in place, its id, and the columns that the layout does not know as ``meta``; ``joint`` as in ``Prompt``.
    Refuses an empty one."""
    for name, way_out in _FOR_TEMPLATES.items():
        if fields.get(name):
            raise FieldError(name, f"is not handed to the chat template: {way_out}; data.keys={{unused: {name}}} sets the column aside")
    messages, text = _with_system(fields, messages, text)
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
    return Prompt(key, read, text, tools, place, plain(meta), joint)
