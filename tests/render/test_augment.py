"""Images in another form each epoch: the same places in the prompt, drawn by what they are and never by when."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keel.learner.config import BatchConfig
from keel.learner.inference import LocalInference
from keel.models.config import ModelOptions
from keel.models.loading import Loaded, load_model
from keel.render.augment import Augment, AugmentConfig, augmented
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.render.template import RefusedError
from keel.types import Demonstration, ImagePart, Message, Prompt, TextPart, Unit
from keel.verbs.shared.session import renderer_of

QUIET = AugmentConfig(crop=1.0, colour=0.0, blur=0.0, resize=1.0)


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def part(image: Image.Image) -> ImagePart:
    out = io.BytesIO()
    image.save(out, "PNG")
    return ImagePart("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())


def ready(name: str) -> tuple[Loaded, Renderer]:
    loaded = load_model(f"tiny:{name}?seed=1", ModelOptions(precision="fp32"))
    return loaded, renderer_of(loaded, RenderConfig())


def unit(renderer: Renderer, record_id: str, *parts: ImagePart) -> Unit:
    prompt = Prompt("p", (Message("user", (*parts, TextPart("?"))),))
    units, refused = renderer.units([Demonstration(record_id, prompt, (Message("assistant", "red"),))])
    assert not refused
    return units[0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [(30, 44), (1, 7), (301, 200)])
def test_an_image_keeps_its_size_and_its_form_follows_from_the_key(size: tuple[int, int], seed: int) -> None:
    image, config = noise(seed, size), AugmentConfig(crop=0.5, mirror=0.5)
    found = augmented(image, config, seed)
    assert found.size == size
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(augmented(image, config, seed)))
    assert np.array_equal(np.asarray(image), np.asarray(augmented(image, QUIET, seed))), "everything off"


def test_settings_do_what_they_say() -> None:
    left = Image.new("RGB", (40, 40), "black")
    left.paste((255, 255, 255), (0, 0, 20, 40))
    mirrored = np.asarray(augmented(left, QUIET.model_copy(update={"mirror": 1.0}), 3))
    assert mirrored[0, 0].tolist() == [0, 0, 0]
    assert mirrored[0, 39].tolist() == [255, 255, 255]
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    levels = [int(np.asarray(augmented(grey, QUIET.model_copy(update={"colour": 0.2}), k))[0, 0, 0]) for k in range(300)]
    assert min(levels) >= 79
    assert max(levels) <= 121
    assert max(levels) - min(levels) > 30
    dot = Image.new("RGB", (100, 100), "black")
    dot.paste((255, 255, 255), (45, 45, 55, 55))
    wide = [int((np.asarray(augmented(dot, QUIET.model_copy(update={"crop": 0.5}), k))[..., 0] > 127).sum()) for k in range(50)]
    assert min(wide) >= 95, "a cut magnifies: 100 white pixels are at least as many"
    assert 300 < max(wide) <= 420, "at most twice in each direction"


@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3_tiles", "gemma3_vision", "paligemma", "qwen2_5_vl", "internvl"])
def test_the_prompt_keeps_its_tokens_and_places_in_every_family(name: str, proofs: None) -> None:
    loaded, renderer = ready(name)
    assert renderer.images is not None
    before = unit(renderer, "r", part(noise(0, (30, 30))), part(noise(1, (44, 90))))
    after = Augment(renderer.images, AugmentConfig(), 0)([before], 0)[0]
    assert replace(after, prompt=before.prompt) == before or after.branches is before.branches
    assert after.prompt.tokens_T is before.prompt.tokens_T
    assert after.prompt.positions_PT is before.prompt.positions_PT
    for own, other in zip(before.prompt.media, after.prompt.media, strict=True):
        a, b = loaded.model.media.get(own.digest), loaded.model.media.get(other.digest)
        assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
        assert not torch.equal(a["pixel_values"], b["pixel_values"])
        assert own.processor == other.processor
        assert not other.kept


def test_what_is_seen_hangs_on_seed_row_and_epoch_alone(proofs: None) -> None:
    loaded, renderer = ready("llava")
    assert renderer.images is not None
    image = part(noise(0, (40, 40)))
    a, b = unit(renderer, "a", image), unit(renderer, "b", image)

    def seen(*asked: tuple[Unit, int], seed: int = 0) -> list[str]:
        augment = Augment(renderer.images, AugmentConfig(), seed)  # type: ignore[arg-type]
        return [augment([u], epoch)[0].prompt.media[0].digest for u, epoch in asked]

    first = seen((a, 0), (b, 0), (a, 1))
    assert len({*first, *seen((a, 0), seed=1)}) == 4
    assert seen((a, 1), (b, 0), (a, 0)) == [first[2], first[1], first[0]], "whatever came before"
    both = Augment(renderer.images, AugmentConfig(), 0)([a, b, a], 0)
    assert [u.prompt.media[0].digest for u in both] == [first[0], first[1], first[0]]
    assert loaded.model.media.get(first[0])["pixel_values"].shape[0] == 1


def test_images_that_were_shown_are_dropped_by_the_next_call(proofs: None) -> None:
    loaded, renderer = ready("llava")
    assert renderer.images is not None
    media = loaded.model.media
    units = [unit(renderer, f"r{k}", part(noise(k, (40, 40)))) for k in range(4)]
    own, held = len(media), media.held
    augment = Augment(renderer.images, AugmentConfig(), 0)
    for epoch in range(3):
        found = augment(units, epoch)
        assert len(media) == 2 * own
        assert media.held == 2 * held
    augment(units[:1], 3)
    assert len(media) == own + 1
    assert found[0].prompt.media[0].digest not in media


def test_a_share_stays_as_it_is(proofs: None) -> None:
    _, renderer = ready("llava")
    assert renderer.images is not None
    image = part(noise(0, (40, 40)))
    units = [unit(renderer, f"r{k}", image) for k in range(60)]
    found = Augment(renderer.images, AugmentConfig(share=0.5), 0)(units, 0)
    same = sum(a is b for a, b in zip(units, found, strict=True))
    assert 15 <= same <= 45
    assert renderer.images is not None
    text = Unit("t", replace(units[0].prompt, media=()), units[0].branches)
    assert Augment(renderer.images, AugmentConfig(), 0)([text], 0)[0] is text


def test_features_of_what_is_seen_once_are_not_kept(proofs: None) -> None:
    loaded, renderer = ready("llava")
    assert renderer.images is not None
    loaded.model.freeze()
    before = unit(renderer, "r", part(noise(0, (40, 40))))
    after = Augment(renderer.images, AugmentConfig(), 0)([before], 0)[0]
    model = loaded.model
    for prompt, misses in ((before.prompt, 1), (after.prompt, 1), (before.prompt, 1)):
        unit_of = replace(before, prompt=prompt)
        LocalInference(model, BatchConfig()).logprobs([unit_of])
        assert model.media.features.misses == misses
    assert model.media.features.hits == 1


def test_a_file_that_changed_is_refused(tmp_path: Path, proofs: None) -> None:
    _, renderer = ready("llava")
    assert renderer.images is not None
    file = tmp_path / "a.png"
    noise(0, (30, 30)).save(file)
    before = unit(renderer, "r", ImagePart(str(file)))
    noise(1, (30, 30)).save(file)
    with pytest.raises(RefusedError, match="not what it was"):
        Augment(renderer.images, AugmentConfig(), 0)([before], 0)
