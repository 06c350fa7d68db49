"""Twins of an image: what is left when the picture is taken away. As many pixels, so the same places in the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

TwinName = Literal["greyed", "blurred"]
BLUR = 8  # the blur's standard deviation is the longer side over this: nothing smaller than about a quarter of the picture is left


def greyed(image: Image.Image) -> Image.Image:
    """Every pixel is the mean colour of ``image``, an RGB picture."""
    red, green, blue = (round(float(c)) for c in np.asarray(image, dtype=np.float64).mean((0, 1)))
    return Image.new("RGB", image.size, (red, green, blue))


def blurred(image: Image.Image) -> Image.Image:
    """``image`` behind milk glass: colours and rough places are left, shapes are not."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / BLUR))


TWINS: Mapping[TwinName, Callable[[Image.Image], Image.Image]] = {"greyed": greyed, "blurred": blurred}
