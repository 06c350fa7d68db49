"""A path that is wrong with images is not taken; where none is right, images are refused by name and text stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from keel.kernels.attention import PackedPlan
from keel.models import pictured, placing, prove, prove_images
from keel.render.config import RenderConfig
from keel.render.renderer import Refusal
from keel.types import Message, Prompt, TextPart, Unit
from keel.verbs.shared.session import renderer_of

PICTURE = pictured._noise(7, (40, 40))


def units(loaded: Any) -> tuple[Any, Any]:
    """A prompt with an image, and one without, as the model's renderer makes them."""
    renderer = renderer_of(loaded, RenderConfig())
    pictured_prompt = Prompt("i", (Message("user", (PICTURE, TextPart("what?"))),))
    return renderer.unit(pictured_prompt), renderer.unit(Prompt("t", (Message("user", "what?"),)))


@pytest.mark.parametrize("arch", ["gemma3_vision", "paligemma"])
def test_a_packed_path_that_forgets_spans(load, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    original = PackedPlan._mask
    monkeypatch.setattr(PackedPlan, "_mask", lambda self, key, window, device, spans=(): original(self, key, window, device))
    loaded = load(arch)
    assert prove_images.packed_error(loaded.model) > 1e-2
    assert not loaded.model.packed, "right on text, wrong on images"
    assert loaded.model.no_images == ""
    assert prove_images.plain_error(loaded.model) < 1e-5
    assert isinstance(units(loaded)[0], Unit)


@pytest.mark.parametrize("arch", ["gemma3_vision", "paligemma"])
def test_spans_that_nobody_knows_of(load, monkeypatch: pytest.MonkeyPatch, arch: str, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(placing, "_SPANS", {})
    loaded = load(arch)
    family = loaded.model.config.model_type
    assert f"images of '{family}' are not read as the model reads them" in loaded.model.no_images
    assert loaded.model.no_images in caplog.text
    assert loaded.model.packed, "text keeps its path"
    refused, text = units(loaded)
    assert isinstance(refused, Refusal)
    assert refused.reason == loaded.model.no_images
    assert isinstance(text, Unit)


@pytest.mark.parametrize("arch", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_that_nobody_knows_of(load, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    monkeypatch.setattr(pictured, "positions_of", lambda *_: None)
    loaded = load(arch)
    assert "the difference from the model's own pass is" in loaded.model.no_images


def test_a_processor_that_does_not_belong_to_the_model(load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its placeholders are not as many as the rows: the reason says so."""
    from keel.models.tiny_vision import FAMILIES

    made = FAMILIES["smolvlm"].processor

    def other(tokenizer: Any) -> Any:
        processor = made(tokenizer)
        processor.image_seq_len = 9
        return processor

    monkeypatch.setitem(FAMILIES, "smolvlm", replace(FAMILIES["smolvlm"], processor=other))  # type: ignore[arg-type]
    loaded = load("smolvlm")
    assert "an image stands for 9 tokens in the prompt and the model makes 4 rows of it" in loaded.model.no_images


def test_the_plain_path_alone(load) -> None:
    loaded = load("qwen3_vl", fast_path="off")
    assert not loaded.model.packed
    assert loaded.model.no_images == ""
    assert isinstance(units(loaded)[0], Unit)


def test_verdicts_belong_to_the_processor(load) -> None:
    a, b = load("llava").model, load("llava").model
    assert a.processor_key == b.processor_key != load("idefics3").model.processor_key
    before = prove._key(a, "x", prove_images.plain_error, ())
    a.processor_key = "another"
    assert prove._key(a, "x", prove_images.plain_error, ()) != before
    assert a.pictured is not None
    assert [len(s.images) for s in a.pictured()] == [1, 2]
    assert torch.equal(a.pictured()[0].prompt.tokens_T, b.pictured()[0].prompt.tokens_T)  # type: ignore[misc]
