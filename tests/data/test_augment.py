from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from keel.data.augment import AugmentConfig, augmented

ONLY = {"share": 1.0, "crop": 1.0, "colour": 0.0, "blur": 0.0, "resize": 1.0}  # nothing but what a test turns on


def picture(width: int = 40, height: int = 30) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def changed(row: str = "r", epoch: int = 0, image: Image.Image | None = None, **config: float) -> Image.Image:
    return augmented(image or picture(), AugmentConfig(**{**ONLY, **config}), 0, row, epoch, held_out=False)


def test_off_by_default_and_never_for_held_out_rows():
    image = picture()
    assert augmented(image, AugmentConfig(), 0, "r", 0, held_out=False) is image
    everything = AugmentConfig(share=1.0, mirror=1.0, colour=0.9, blur=9.0, resize=0.2, crop=0.3)
    for epoch in range(20):
        assert augmented(image, everything, 0, "r", epoch, held_out=True) is image


def test_the_same_key_draws_the_same_and_every_part_of_the_key_counts():
    config, image = AugmentConfig(share=1.0), picture()

    def drawn(seed: int = 0, row: str = "r", epoch: int = 0, number: int = 0) -> bytes:
        made = augmented(image, config, seed, row, epoch, number, held_out=False)
        return made.tobytes() + str(made.size).encode()

    want = drawn()
    others = [drawn(seed=1), drawn(row="s"), drawn(epoch=1), drawn(number=1)]
    assert drawn() == want  # whatever was drawn in between
    assert len({want, *others}) == 5


def test_nothing_turned_on_changes_no_pixel_and_keeps_the_given_image():
    image = picture()
    before = pixels(image).copy()
    assert np.array_equal(pixels(changed(image=image)), before)
    augmented(image, AugmentConfig(share=1.0, mirror=1.0), 0, "r", 0, held_out=False)
    assert np.array_equal(pixels(image), before)


def test_the_share_of_draws():
    """Of 2000 draws at a share of 0.3, the number lies within five standard deviations (20.5) of 600: the hash is fixed, so this holds."""
    image, config = picture(4, 4), AugmentConfig(**{**ONLY, "share": 0.3})
    n = sum(augmented(image, config, 0, f"r{i}", 0, held_out=False) is not image for i in range(2000))
    assert abs(n - 600) < 103


def test_a_crop_is_a_part_of_the_picture():
    seen = set()
    for epoch in range(40):
        part = pixels(changed(epoch=epoch, crop=0.5))
        height, width = part.shape[:2]
        assert 20 <= width <= 40
        assert 15 <= height <= 30
        left, top = int(part[0, 0, 0]) // 6, int(part[0, 0, 1]) // 8  # the picture's colours say where they are
        assert np.array_equal(part, pixels(picture())[top : top + height, left : left + width])
        seen.add((left, top, width, height))
    assert len(seen) > 30
    assert changed(crop=0.01, image=picture(1, 1)).size == (1, 1)


def test_a_mirror_is_the_picture_from_right_to_left_and_takes_its_chance():
    assert np.array_equal(pixels(changed(mirror=1.0)), pixels(picture())[:, ::-1])
    plain = [np.array_equal(pixels(changed(epoch=e)), pixels(picture())) for e in range(10)]
    assert all(plain)
    half = [np.array_equal(pixels(changed(epoch=e, mirror=0.5)), pixels(picture())) for e in range(200)]
    assert 65 < sum(half) < 135


@pytest.mark.parametrize("what", ["crop", "mirror"])
def test_rows_that_speak_of_places_keep_them(what):
    config = AugmentConfig(**{**ONLY, what: {"crop": 0.5, "mirror": 1.0}[what]})
    for epoch in range(10):
        made = augmented(picture(), config, 0, "r", epoch, held_out=False, places=True)
        assert np.array_equal(pixels(made), pixels(picture()))


def test_colours_of_a_grey_picture():
    """On a picture of one grey, contrast and saturation change nothing: what is left is brightness, a factor of 0.5 to 1.5."""
    grey = Image.new("RGB", (5, 5), (100, 100, 100))
    values = [pixels(changed(epoch=e, colour=0.5, image=grey)) for e in range(60)]
    assert all((v == v[0, 0, 0]).all() for v in values)
    levels = [int(v[0, 0, 0]) for v in values]
    assert min(levels) >= 49
    assert max(levels) <= 151
    assert max(levels) - min(levels) > 60


def test_blur_and_a_smaller_size_smooth_an_edge_and_keep_a_plain_picture():
    edge = Image.fromarray(np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 20, 1), 40, 0)).convert("RGB")
    ways: list[dict[str, Any]] = [{"blur": 100.0}, {"resize": 0.2}]
    for config in ways:
        steps = [int(np.abs(np.diff(pixels(changed(epoch=e, image=edge, **config))[20, :, 0].astype(int))).max()) for e in range(20)]
        assert min(steps) < 128
        plain = Image.new("RGB", (40, 40), (10, 200, 30))
        made = changed(image=plain, **config)
        assert np.array_equal(pixels(made), pixels(plain))
        assert made.size == plain.size


def test_a_setting_moves_no_other_draw():
    """The crop of a row and epoch is the same with a mirror and without."""
    both = pixels(changed(crop=0.5, mirror=1.0))
    assert np.array_equal(both[:, ::-1], pixels(changed(crop=0.5)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_of_an_image(mode):
    made = augmented(picture().convert(mode), AugmentConfig(share=1.0), 0, "r", 0, held_out=False)
    assert made.mode == "RGB"
