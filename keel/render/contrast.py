"""The corrupted twin of a prompt with images: the same words, and of each image a small cut in its place, so that the prompt takes as many
tokens and tells next to nothing (Wang et al. 2024, arXiv:2406.11839: at most a fifth of the image is kept)."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

from PIL import Image

from keel.core.hashing import digest_bytes, stable_hash
from keel.render.pixels import image_bytes, named, open_image
from keel.render.template import RefusedError
from keel.types import ImagePart, Message, Prompt

KEPT = 0.2  # of an image's area at most


def corrupted(prompt: Prompt) -> Prompt | None:
    """The prompt with every image corrupted; None where it holds none. Raises RefusedError for an image that cannot be read or cut."""
    if not any(isinstance(part, ImagePart) for message in prompt.messages for part in message.content):
        return None
    return replace(prompt, messages=tuple(map(_message, prompt.messages)))


def _message(message: Message) -> Message:
    if isinstance(message.content, str):
        return message
    return replace(message, content=tuple(cut(part) if isinstance(part, ImagePart) else part for part in message.content))


def cut(part: ImagePart) -> ImagePart:
    """A cut of 0 to 20% of the image's area with its proportions, at least a pixel, scaled to the image's size. Which one follows from the
    image's bytes. Raises RefusedError for an image of which a pixel is more than that."""
    raw = image_bytes(part)
    image = open_image(raw, named(part))
    width, height = image.size
    if width * height * KEPT < 1:
        raise RefusedError(f"image {named(part)} is {width} x {height}: no cut of it is a fifth or less")
    chances = [stable_hash("cut", digest_bytes(raw), k) / 2.0**64 for k in range(3)]
    side = (KEPT * chances[0]) ** 0.5
    w, h = max(1, int(width * side)), max(1, int(height * side))
    x, y = int((width - w + 1) * chances[1]), int((height - h + 1) * chances[2])
    out = io.BytesIO()
    image.crop((x, y, x + w, y + h)).resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())
