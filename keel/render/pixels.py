"""The bytes of an image -> its pixels as people see them: upright, in 8 bits, on white where it is transparent."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from keel.render.template import RefusedError
from keel.types import ImagePart

_SHOWN = 200  # characters of a path in a message: its end says which file it is


def image_bytes(part: ImagePart) -> bytes:
    """The image's own bytes, from a file or a ``data:`` URL. Raises RefusedError."""
    try:
        if part.source.startswith("data:"):
            return base64.b64decode(part.source.partition(",")[2], validate=True)
        return Path(part.source).expanduser().read_bytes()
    except (OSError, binascii.Error) as error:
        raise RefusedError(f"image {named(part)} cannot be read: {error}") from None


def open_image(raw: bytes, name: str) -> Image.Image:
    """RGB pixels. The orientation of a camera is followed, 16 bits are scaled to 8, transparent parts stand on white, of several frames the
    first is taken. Raises RefusedError with ``name`` for what is no image, is cut off, is too large to be decoded safely (more than 179
    million pixels), or has numbers without a known scale."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
            if image.mode.startswith(("I", "F")):
                image = _in_8_bits(image, name)
            if not image.has_transparency_data:
                return image.convert("RGB")
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise RefusedError(f"image {name} is too large: {error}") from None
    except (OSError, ValueError, SyntaxError) as error:  # PIL's own UnidentifiedImageError is an OSError
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(f"image {name} cannot be decoded: {error}") from None


def named(part: ImagePart) -> str:
    """How a refusal calls an image."""
    if part.source.startswith("data:"):
        return f"in a data: URL ({part.source[:30]}...)"
    return repr(part.source if len(part.source) <= _SHOWN else f"...{part.source[-_SHOWN:]}")


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bits, 0 .. 65535, as 8 bits."""
    values_YX = np.asarray(image).astype(np.float64)
    if image.mode.startswith("F") or values_YX.min() < 0 or values_YX.max() > 65535:
        raise RefusedError(f"image {name} holds numbers of mode '{image.mode}', whose scale is not known: save it with 8 or 16 bits")
    return Image.fromarray(np.round(values_YX / 257).astype(np.uint8), "L")
