"""Processors without their video part keep all their other settings, when they are read and when they are saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from keel.models import processors, tiny
from keel.models.config import ModelOptions
from keel.models.loading import load_model
from keel.models.processors import image_only
from keel.render.images import settings_digest

SETTING = {"smolvlm_tiles": "image_seq_len", "internvl": "image_seq_length", "idefics3_tiles": "image_seq_len"}  # 4 in all


@pytest.mark.parametrize("name", [*SETTING, "qwen3_vl", "llava_next", "gemma3_vision", "paligemma"])
def test_settings_survive_saving_and_reading(name: str, tmp_path: Path) -> None:
    """A count of tokens that falls back to its default makes a model whose images do not fit their prompts."""
    module, tokenizer, processor = tiny.build(tiny.parse(f"tiny:{name}", 0))
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    first = load_model(str(tmp_path), ModelOptions(precision="fp32", device="cpu"))
    assert settings_digest(first.processor) == settings_digest(processor)
    assert getattr(first.processor, SETTING.get(name, ""), 4) == 4
    first.model.save(tmp_path / "final", first.tokenizer, first.processor)
    second = load_model(str(tmp_path / "final"), ModelOptions(precision="fp32", device="cpu"))
    assert settings_digest(second.processor) == settings_digest(processor)
    assert type(second.processor).__name__ == type(processor).__name__


def test_the_package_of_numbers_in_words_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM's processor asks for num2words, which only its videos use."""
    module: Any = sys.modules[transformers.SmolVLMProcessor.__module__]
    monkeypatch.setattr(module, "num2words", None)
    tokenizer = tiny.build(tiny.parse("tiny:smolvlm", 0))[1]
    images = transformers.SmolVLMImageProcessorPil()
    with pytest.raises(ImportError, match="num2words"):
        transformers.SmolVLMProcessor(images, tokenizer, None)  # type: ignore[arg-type]
    assert image_only(transformers.SmolVLMProcessor)(images, tokenizer, image_seq_len=4).image_seq_len == 4


def test_a_processor_without_video_stays_as_it_is() -> None:
    assert image_only(transformers.LlavaProcessor) is transformers.LlavaProcessor


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, tokenizer, processor = tiny.build(tiny.parse("tiny:llava", 0))
    for part in (module, tokenizer, processor):
        part.save_pretrained(tmp_path)

    def lacking(*_: Any, **__: Any) -> Any:
        raise ImportError("Package `sometool` is required. Install it with `pip install sometool`.")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lacking)
    monkeypatch.setattr(processors, "image_only", lacking)
    with pytest.raises(ValueError, match="sometool") as caught:
        load_model(str(tmp_path), ModelOptions(precision="fp32", device="cpu"))
    assert "install the package" in str(caught.value) + getattr(caught.value, "hint", "")


def test_images_are_scaled_alike_with_torchvision_and_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, tokenizer, processor = tiny.build(tiny.parse("tiny:llava", 0))
    for part in (module, tokenizer, processor):
        part.save_pretrained(tmp_path)

    class TorchvisionBackend: ...

    class Fast(type(processor.image_processor), TorchvisionBackend): ...

    read = transformers.AutoProcessor.from_pretrained

    def with_torchvision(*args: Any, **more: Any) -> Any:
        found = read(*args, **more)
        found.image_processor.__class__ = Fast
        return found

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", with_torchvision)
    assert type(processors.read_processor(str(tmp_path), {}).image_processor) is type(processor.image_processor)
