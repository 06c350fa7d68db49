"""How large the images of a request become: read from their headers, before anything is decoded. No torch."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from keel.serve.policy.config import RowsConfig


def megapixels(sources: Sequence[str]) -> float:
    """Of all these ``data:`` URLs together, an image that stands twice counted twice. What is no image counts for nothing here: whoever
    renders it says what is wrong with it."""
    return sum(map(_megapixels, sources))


def image_fault(messages: Sequence[Mapping[str, Any]], limits: RowsConfig) -> str:
    """Why the images of a conversation are too many or too large; empty where they are not."""
    sources = sources_of(messages)
    if len(sources) > limits.images:
        return f"{len(sources)} images; a request may have {limits.images}"
    found = megapixels(sources)
    return (
        f"images of {found:.0f} megapixels; a request may have {limits.image_mpx:g}: send them smaller" if found > limits.image_mpx else ""
    )


def sources_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The images of a conversation, in order."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    return [part["source"] for part in parts if part["type"] == "image"]


def _megapixels(source: str) -> float:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True))).size
    except Image.DecompressionBombError:
        return float("inf")
    except (OSError, ValueError, SyntaxError, binascii.Error):
        return 0.0
    return width * height / 1e6
