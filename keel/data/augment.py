"""Changes of an image that keep what is asked about it: crops, light and colour, blur, the loss of a smaller size.

Pure functions: what is done is a hash of the key (seed, row, epoch, number of the image), never the next draw of a generator. So a resume
draws the same, and the order of rows or batches changes nothing. Mirrors are off by default: left, right and writing change their meaning.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import Field

from keel.core.config import Section
from keel.core.hashing import stable_hash, uniform


class AugmentConfig(Section):
    """Images of training rows in another form each epoch. Held-out rows keep theirs."""

    share: float = Field(default=0.0, ge=0, le=1, description="Share of the draws (row and epoch) that change the image; 0 = off.")
    crop: float = Field(default=0.9, gt=0, le=1, description="Least share of width and of height that a crop leaves; 1 = no crops.")
    colour: float = Field(default=0.2, ge=0, lt=1, description="Brightness, contrast and saturation by factors from 1-x to 1+x; 0 = none.")
    blur: float = Field(default=1.0, ge=0, description="Greatest radius of a Gaussian blur in thousandths of the longer side; 0 = none.")
    resize: float = Field(
        default=0.7, gt=0, le=1, description="Least scale that the image goes through before it gets its size back; 1 = none."
    )
    mirror: float = Field(
        default=0.0, ge=0, le=1, description="Chance to swap left and right: wrong where places or writing are asked about."
    )


def augmented(
    image: Image.Image, config: AugmentConfig, seed: int, row: str, epoch: int, number: int = 0, *, held_out: bool, places: bool = False
) -> Image.Image:
    """The image as this row sees it in this epoch: RGB of the crop's size, or the very image that was given where nothing is changed.

    ``row`` is the record's id and ``number`` counts its images from 0; the content of the image does not count. ``held_out`` rows are never
    changed. ``places``: the row speaks of places in pixels (boxes), so that crops and mirrors would make it wrong; they are left out.
    """
    if held_out or config.share == 0:
        return image
    draws = _Draws(stable_hash("augment", seed, row, epoch, number))
    if draws.at(0) >= config.share:
        return image
    result = image.convert("RGB")
    if not places:
        result = _cropped(result, config.crop, draws)
        if draws.at(5) < config.mirror:
            result = ImageOps.mirror(result)
    for position, enhance in ((6, ImageEnhance.Brightness), (7, ImageEnhance.Contrast), (8, ImageEnhance.Color)):
        if config.colour > 0:
            result = enhance(result).enhance(draws.between(position, 1 - config.colour, 1 + config.colour))
    if config.blur > 0:
        result = result.filter(ImageFilter.GaussianBlur(draws.between(9, 0.0, config.blur) * max(result.size) / 1000))
    return _through_smaller(result, draws.between(10, config.resize, 1.0))


class _Draws:
    """Numbers in [0, 1) by what they are for: each has a position of its own, so that a setting turned off moves no other draw."""

    def __init__(self, key: int) -> None:
        self._key = np.array([key], dtype=np.uint64)

    def at(self, position: int) -> float:
        return float(uniform(self._key, position)[0])

    def between(self, position: int, low: float, high: float) -> float:
        return low + (high - low) * self.at(position)


def _cropped(image: Image.Image, least: float, draws: _Draws) -> Image.Image:
    """A part of at least ``least`` of each side, anywhere. Draws 1 to 4: width, height, left, top."""
    if least == 1:
        return image
    width, height = (max(1, round(side * draws.between(1 + i, least, 1.0))) for i, side in enumerate(image.size))
    left = int(draws.at(3) * (image.width - width + 1))
    top = int(draws.at(4) * (image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _through_smaller(image: Image.Image, scale: float) -> Image.Image:
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if small == image.size:
        return image
    return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BICUBIC)
