"""The picture of a scene."""

from __future__ import annotations

import math

from PIL import Image, ImageChops, ImageDraw

from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.scene import Look, Scene, chance
from keel.simulate.scenes.words import RGB

_FINE = 4  # drawn this much larger, then made smaller: smooth edges
_BACKGROUND = (245, 244, 240)
_HALF = {"large": 0.44, "small": 0.24, None: 0.38}  # half width of an object, in cells


def draw(scene: Scene, config: SceneConfig) -> Image.Image:
    """RGB, ``config.pixels`` wide and high. Objects stand a little off the middle of their cells."""
    side = config.pixels * _FINE
    cell = side / config.grid
    picture = Image.new("RGB", (side, side), _BACKGROUND)
    rng = chance("places", scene.scene_id)
    for thing in scene.things:
        half = _HALF[thing.look.size] * cell
        slack = max(0.0, cell / 2 - half)
        x = (thing.column + 0.5) * cell + rng.uniform(-slack, slack) * 0.6
        y = (thing.row + 0.5) * cell + rng.uniform(-slack, slack) * 0.6
        mask = _mask(thing.look, side, x, y, half)
        picture.paste(RGB[str(thing.look.colour)], mask=mask)
    return picture.resize((config.pixels, config.pixels), Image.Resampling.LANCZOS)


def _mask(look: Look, side: int, x: float, y: float, half: float) -> Image.Image:
    """Where the object is, as a picture in grey."""
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    if look.shape == "circle":
        pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
    else:
        pen.polygon([(x + half * dx, y + half * dy) for dx, dy in _outline(look.shape)], fill=255)
    if look.material == "striped":
        stripes = Image.new("L", (side, side), 0)
        lines = ImageDraw.Draw(stripes)
        width = max(2, round(half / 4))
        for left in range(0, side, 2 * width):
            lines.rectangle((left, 0, left + width - 1, side), fill=255)
        mask = ImageChops.multiply(mask, stripes)
    return mask


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of the shape within [-1, 1] x [-1, 1], y downwards."""
    if shape == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if shape == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if shape == "cross":
        a = 0.35
        return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    radii = [1.0, 0.42] * 5
    return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate(radii)]
