"""How much there is to see in an image: a number from 0 to 1, without a model.

The mean of two shares. *Edges*: how many neighbouring pixels (to the right, and below) differ by more than an eighth of the scale in
brightness: structure, which costs looking. *Colours*: the entropy of the picture's colours in 64 bins (4 for each of red, green and blue)
over its largest value, log 64: how many things of their own colour there may be. One colour has neither; noise has both; a fine pattern in
black and white has edges and few colours; a smooth gradient colours and no edges.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SIDE = 128  # pixels of the longer side that are looked at: larger images are made smaller, so that size alone is no complexity
EDGE = 32  # of 256 levels of brightness
_BINS = 4  # for each of three colours


def complexity(image: Image.Image) -> float:
    """Of an RGB picture: 0 (one colour) to 1."""
    if max(image.size) > SIDE:
        scale = SIDE / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return (_edges(image) + _colours(image)) / 2.0


def _edges(image: Image.Image) -> float:
    levels_YX = np.asarray(image.convert("L")).astype(np.int16)
    steps = np.concatenate([np.diff(levels_YX, axis=axis).ravel() for axis in (0, 1)])
    return float((np.abs(steps) > EDGE).mean()) if len(steps) else 0.0


def _colours(image: Image.Image) -> float:
    bins_YXC = np.asarray(image).astype(np.int64) // (256 // _BINS)
    code = (bins_YXC * np.array([_BINS**2, _BINS, 1])).sum(-1).ravel()
    share = np.bincount(code, minlength=_BINS**3) / len(code)
    share = share[share > 0]
    return max(0.0, -float((share * np.log(share)).sum())) / math.log(_BINS**3)
