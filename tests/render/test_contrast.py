"""Corrupted twins of images: a fifth at most is kept, the size stays, and which cut it is follows from the image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keel.render.contrast import corrupted, cut
from keel.render.pixels import image_bytes
from keel.render.template import RefusedError
from keel.types import ImagePart, Message, Prompt, TextPart


def numbered(path: Path, width: int, height: int) -> ImagePart:
    """Red says the column, green the row."""
    pixels_YXC = np.zeros((height, width, 3), dtype=np.uint8)
    pixels_YXC[..., 0] = (np.arange(width) * 255 // max(1, width - 1))[None]
    pixels_YXC[..., 1] = (np.arange(height) * 255 // max(1, height - 1))[:, None]
    Image.fromarray(pixels_YXC).save(path)
    return ImagePart(str(path))


def opened(part: ImagePart) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image_bytes(part))).convert("RGB")).astype(int)


@pytest.mark.parametrize(("width", "height"), [(100, 100), (240, 60), (64, 200), (3, 2)])
def test_a_fifth_at_most_is_kept_and_the_size_stays(tmp_path: Path, width: int, height: int) -> None:
    part = numbered(tmp_path / "a.png", width, height)
    found = opened(cut(part))
    assert found.shape == (height, width, 3)
    across, down = (np.ptp(found[..., c]) / 255 for c in (0, 1))
    assert across * down <= 0.25, "what is seen of rows and columns is a fifth of the area, and a pixel more by scaling"


def test_cuts_are_of_many_sizes_and_places_and_always_the_same_of_one_image(tmp_path: Path) -> None:
    parts = [numbered(tmp_path / f"{k}.png", 100 + k, 100) for k in range(24)]
    seen = [opened(cut(part)) for part in parts]
    widths = [np.ptp(x[..., 0]) / 255 for x in seen]
    assert min(widths) < 0.2 < 0.4 < max(widths)
    assert max(widths) < 0.5
    assert len({int(x[..., 0].mean()) // 32 for x in seen}) >= 4
    assert cut(parts[0]) == cut(parts[0])


def test_a_prompt_keeps_its_words(tmp_path: Path) -> None:
    part = numbered(tmp_path / "a.png", 30, 30)
    text, plain = TextPart("Look"), Message("system", "Be brief")
    prompt = Prompt("p", (plain, Message("user", (part, text, part))))
    other = corrupted(prompt)
    assert other is not None
    assert other.messages[0] == plain
    assert other.messages[1].content == (cut(part), text, cut(part))
    assert corrupted(Prompt("q", (plain,))) is None
    assert corrupted(Prompt("r", text="raw")) is None


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="2 x 2: no cut of it is a fifth or less"):
        cut(numbered(tmp_path / "a.png", 2, 2))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(RefusedError, match=r"b\.png"):
        cut(ImagePart(str(tmp_path / "b.png")))
