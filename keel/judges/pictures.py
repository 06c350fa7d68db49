"""Texts with images in them, as judges and critics are shown them: what is shown, under which key it is known, and how servers are sent it.
No torch."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keel.core.image_digest import image_digest
from keel.types import ImagePart, Message, TextPart

Part = TextPart | ImagePart
Content = str | tuple[Part, ...]
_SENT = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif"}  # formats that servers of the chat protocol read
_ORIENTATION = 0x0112  # of a camera, in EXIF; 1 = upright


def holds_image(turns: Sequence[Message]) -> bool:
    """Does any of the turns hold an image?"""
    return any(isinstance(p, ImagePart) for m in turns if not isinstance(m.content, str) for p in m.content)


def said(turns: Sequence[Message]) -> tuple[Part, ...]:
    """Turns as one text with their images where they stand. A single turn of the assistant is shown without its role; calls of tools are
    told as the JSON that they are."""
    alone = len(turns) == 1 and turns[0].role == "assistant"
    parts: list[Part] = []
    for k, m in enumerate(turns):
        parts.append(TextPart("" if alone else "\n\n" * (k > 0) + f"{m.role}: "))
        parts += [TextPart(m.content)] if isinstance(m.content, str) else m.content
        if calls := m.extra.get("tool_calls"):
            parts.append(TextPart("\n" * bool(m.content) + json.dumps(calls, ensure_ascii=False, default=str)))
    return together(parts)


def together(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Neighbouring texts as one, empty ones left out: a marker cannot hide in two halves."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, TextPart) and found and isinstance(found[-1], TextPart):
            found[-1] = TextPart(found[-1].text + part.text)
        elif isinstance(part, ImagePart) or part.text:
            found.append(part)
    return tuple(found)


def content_of(parts: Iterable[Part]) -> Content:
    """The content of a message: a plain text where there is no image. White space around the whole is left out."""
    found = list(together(parts))
    if found and isinstance(found[0], TextPart):
        found[0] = TextPart(found[0].text.lstrip())
    if found and isinstance(found[-1], TextPart):
        found[-1] = TextPart(found[-1].text.rstrip())
    if all(isinstance(part, TextPart) for part in found):
        return "".join(part.text for part in found if isinstance(part, TextPart))
    return together(found)


def each_text(parts: Iterable[Part], change: Callable[[str], str]) -> tuple[Part, ...]:
    """The parts with every text changed."""
    return tuple(TextPart(change(part.text)) if isinstance(part, TextPart) else part for part in together(parts))


def texts_of(content: Content) -> list[str]:
    """The texts of a content, images left out."""
    return [content] if isinstance(content, str) else [part.text for part in content if isinstance(part, TextPart)]


def images_of(content: Content) -> list[ImagePart]:
    """The images of a content, in order."""
    return [] if isinstance(content, str) else [part for part in content if isinstance(part, ImagePart)]


def known_by(content: Content) -> Content:
    """The content with each image under the hash of its bytes: another picture under the same path is another content."""
    if isinstance(content, str):
        return content
    return tuple(ImagePart(image_digest(part.source)) if isinstance(part, ImagePart) else part for part in content)


def sent(content: Content) -> str | list[dict[str, Any]]:
    """The content as the chat protocol has it: a string, or content parts with each image as a ``data:`` URL.

    Raises RefusedError (a DataError) for an image that cannot be read.
    """
    if isinstance(content, str):
        return content
    return [
        {"type": "image_url", "image_url": {"url": data_url(part)}} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in content
    ]


def data_url(part: ImagePart) -> str:
    """An image as a ``data:`` URL: its own bytes where servers read them as people see them, else as PNG (other formats, pictures that a
    camera says are to be turned). Raises RefusedError (a DataError) for what is no image."""
    from PIL import Image  # and the decoding, where there are images

    from keel.render.pixels import image_bytes, named, open_image

    raw = image_bytes(part)
    seen = open_image(raw, named(part))
    with Image.open(io.BytesIO(raw)) as image:
        kind, turned = _SENT.get(image.format or "", ""), image.getexif().get(_ORIENTATION, 1) != 1
    if not kind or turned:
        out = io.BytesIO()
        seen.save(out, "PNG")
        kind, raw = "png", out.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
