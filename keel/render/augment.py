"""Training images in another form each epoch: cut, light and colour, blur, the loss of a smaller size.

What is done to an image is a hash of (seed, unit, epoch, number of the image), never the next draw of a generator: a resume draws the same,
and the order of rows or batches changes nothing. An image keeps its size, so the prompt keeps its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import Field

from keel.core.config import Section
from keel.core.hashing import stable_hash, uniform
from keel.render.images import Images
from keel.types import MediaRef, Unit


class AugmentConfig(Section):
    """Images of training rows in another form each epoch. What is held out keeps its own."""

    share: float = Field(default=1.0, gt=0, le=1, description="Share of the draws (image and epoch) that change the image.")
    crop: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Least share of width and of height that a cut leaves, scaled back to the image's size; 1 = none. Set 1 where texts "
        "name places in pixels.",
    )
    colour: float = Field(default=0.2, ge=0, lt=1, description="Brightness, contrast and saturation by factors from 1-x to 1+x; 0 = none.")
    blur: float = Field(default=1.0, ge=0, description="Largest radius of a Gaussian blur in thousandths of the longer side; 0 = none.")
    resize: float = Field(
        default=0.7, gt=0, le=1, description="Least scale that the image goes through before it gets its size back; 1 = none."
    )
    mirror: float = Field(
        default=0.0, ge=0, le=1, description="Chance to swap left and right: wrong where places or writing are asked about."
    )


class Augment:
    """Units with their images as an epoch shows them. Images of the last call's units are dropped by the next."""

    def __init__(self, images: Images, config: AugmentConfig, seed: int) -> None:
        self.images, self.config, self.seed = images, config, seed
        self._held: set[str] = set()

    def __call__(self, units: Sequence[Unit], epoch: int) -> list[Unit]:
        """The very unit where nothing changes: it has no image, or the draw says so. A unit's contrast stays as it is.

        Raises RefusedError where an image's file is no longer what it was.
        """
        found = [self._unit(unit, epoch) for unit in units]
        held = {ref.digest for unit in found for ref in unit.prompt.media if not ref.kept}
        for digest in self._held - held:
            self.images.media.drop(digest)
        self._held = held
        return found

    def _unit(self, unit: Unit, epoch: int) -> Unit:
        media = tuple(self._image(ref, unit.unit_id, epoch, number) for number, ref in enumerate(unit.prompt.media))
        return unit if media == unit.prompt.media else replace(unit, prompt=replace(unit.prompt, media=media))

    def _image(self, ref: MediaRef, row: str, epoch: int, number: int) -> MediaRef:
        key = stable_hash("augment", self.seed, row, epoch, number)
        if _Draws(key).at(0) >= self.config.share:
            return ref
        return self.images.changed(ref, f"{key:016x}", lambda image: augmented(image, self.config, key))


def augmented(image: Image.Image, config: AugmentConfig, key: int) -> Image.Image:
    """An RGB image in another form, of the same size. ``key`` decides all draws."""
    draws, size = _Draws(key), image.size
    result = _cut(image, config.crop, draws)
    if draws.at(5) < config.mirror:
        result = ImageOps.mirror(result)
    for position, enhance in ((6, ImageEnhance.Brightness), (7, ImageEnhance.Contrast), (8, ImageEnhance.Color)):
        if config.colour > 0:
            result = enhance(result).enhance(draws.between(position, 1 - config.colour, 1 + config.colour))
    if config.blur > 0:
        result = result.filter(ImageFilter.GaussianBlur(draws.between(9, 0.0, config.blur) * max(size) / 1000))
    scale = draws.between(10, config.resize, 1.0)
    small = (max(1, round(result.width * scale)), max(1, round(result.height * scale)))
    if small != result.size:
        result = result.resize(small, Image.Resampling.BILINEAR)
    return result if result.size == size else result.resize(size, Image.Resampling.BICUBIC)


class _Draws:
    """Numbers in [0, 1) by what they are for: each has a position of its own, so that a setting turned off moves no other draw."""

    def __init__(self, key: int) -> None:
        self._key = np.array([key], dtype=np.uint64)

    def at(self, position: int) -> float:
        return float(uniform(self._key, position)[0])

    def between(self, position: int, low: float, high: float) -> float:
        return low + (high - low) * self.at(position)


def _cut(image: Image.Image, least: float, draws: _Draws) -> Image.Image:
    """A part with the image's proportions and at least ``least`` of each side, anywhere. Draws 1 to 3: scale, left, top."""
    scale = draws.between(1, least, 1.0)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if (width, height) == image.size:
        return image
    left = int(draws.at(2) * (image.width - width + 1))
    top = int(draws.at(3) * (image.height - height + 1))
    return image.crop((left, top, left + width, top + height))
