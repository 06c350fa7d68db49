"""Twins of images: as many pixels and tokens, without the picture."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.render.config import RenderConfig
from keel.render.template import RefusedError
from keel.render.twins import TWINS, blurred, greyed
from keel.types import ImagePart, Message, Prompt, TextPart
from keel.verbs.shared.session import renderer_of


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def part(image: Image.Image) -> ImagePart:
    out = io.BytesIO()
    image.save(out, "PNG")
    return ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())


def test_a_greyed_image_is_its_mean_colour() -> None:
    pixels_YXC = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels_YXC[0, 0] = (60, 120, 6)
    pixels_YXC[1, 2] = (6, 0, 0)
    grey = greyed(Image.fromarray(pixels_YXC))
    assert grey.size == (3, 2)
    assert np.asarray(grey).reshape(-1, 3).tolist() == [[11, 20, 1]] * 6


def test_a_blurred_image_keeps_its_mean_and_loses_its_stripes() -> None:
    stripes_YXC = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes_YXC[:, ::2] = 255
    found_YXC = np.asarray(blurred(Image.fromarray(stripes_YXC))).astype(float)
    assert found_YXC.mean() == pytest.approx(127.5, abs=2)
    assert found_YXC[:, 16:48].std() < 3, "127.5 before"


def test_a_large_patch_is_left_of_a_blurred_image() -> None:
    halves_YXC = np.zeros((64, 64, 3), dtype=np.uint8)
    halves_YXC[:, 32:] = 255
    found_YXC = np.asarray(blurred(Image.fromarray(halves_YXC)))
    assert int(found_YXC[32, 60, 0]) - int(found_YXC[32, 4, 0]) > 200


@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3_tiles", "gemma3_vision", "paligemma", "qwen2_5_vl", "internvl"])
def test_twins_take_the_same_places_in_every_family(name: str, proofs: None) -> None:
    loaded = load_model(f"tiny:{name}?seed=1", ModelOptions(precision="fp32"))
    renderer = renderer_of(loaded, RenderConfig())
    parts = (part(noise(0, (30, 30))), TextPart("or"), part(noise(1, (44, 90))), TextPart("?"))
    prompt = renderer.prompt(Prompt("p", (Message("user", parts),)))
    for twin in (renderer.twins[k](prompt) for k in TWINS):
        assert twin is not None
        assert twin.tokens_T is prompt.tokens_T
        assert twin.positions_PT is prompt.positions_PT
        assert [m.n_tokens for m in twin.media] == [m.n_tokens for m in prompt.media]
        assert [m.processor for m in twin.media] == [m.processor for m in prompt.media], "read by the same models"
        for own, other in zip(prompt.media, twin.media, strict=True):
            a, b = loaded.model.media.get(own.digest), loaded.model.media.get(other.digest)
            assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
            assert not torch.equal(a["pixel_values"], b["pixel_values"])
            assert all(torch.equal(a[k], b[k]) for k in a if k != "pixel_values"), "sizes and grids"


def test_a_greyed_twin_has_one_colour_in_the_model_s_pixels(proofs: None) -> None:
    loaded = load_model("tiny:llava?seed=1", ModelOptions(precision="fp32"))
    renderer = renderer_of(loaded, RenderConfig())
    prompt = renderer.prompt(Prompt("p", (Message("user", (part(noise(0, (40, 40))), TextPart("?"))),)))
    twin = renderer.twins["greyed"](prompt)
    assert twin is not None
    pixels = loaded.model.media.get(twin.media[0].digest)["pixel_values"]
    assert pixels.flatten(2).std(-1).max() < 1e-6


def test_prompts_without_images_and_text_models_have_no_twins(proofs: None) -> None:
    renderer = renderer_of(load_model("tiny:llava?seed=1", ModelOptions(precision="fp32")), RenderConfig())
    assert renderer.twins["greyed"](renderer.prompt(Prompt("p", (Message("user", "Hi"),)))) is None
    assert renderer_of(load_model("tiny:llama?seed=1", ModelOptions(precision="fp32")), RenderConfig()).twins == {}


def test_a_file_that_is_gone_is_refused(tmp_path: Path, proofs: None) -> None:
    file = tmp_path / "a.png"
    noise(0, (30, 30)).save(file)
    renderer = renderer_of(load_model("tiny:llava?seed=1", ModelOptions(precision="fp32")), RenderConfig())
    prompt = renderer.prompt(Prompt("p", (Message("user", (ImagePart(str(file)), TextPart("?"))),)))
    file.unlink()
    with pytest.raises(RefusedError, match="cannot be read"):
        renderer.twins["blurred"](prompt)
