"""Frames: a model whose weights come part by part is the model that is loaded at once, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from keel.core.errors import ModelError
from keel.kernels.narrow import input_table, output_layer
from keel.models.config import LoraConfig, ModelOptions
from keel.models.frame import Filling, Shelf, has_files, shelf_of, without_weights
from keel.models.loading import folder_of, load_model
from keel.models.model import Model

CPU = torch.device("cpu")
OPTIONS = ModelOptions(precision="fp32", device="cpu")
Saved = Callable[[str], Path]


@pytest.fixture
def saved(tmp_path: Path, load: Callable[..., Any]) -> Saved:
    """The folder of a tiny model."""

    def save(arch: str) -> Path:
        loaded = load(arch)
        loaded.model.save(tmp_path / arch, loaded.tokenizer, loaded.processor)
        return tmp_path / arch

    return save


def framed(model: Model) -> Model:
    """The frame of ``model``, as another process would make it."""
    assert model.origin is not None
    o = model.origin
    return load_model(o.spec, o.options, o.lora, o.heads, o.seed, o.new_heads, o.score, o.value, empty=True).model


def folder_in(model: Model) -> Path:
    """The folder that it was read from."""
    assert model.origin is not None
    return Path(model.origin.spec)


def shelf(model: Model) -> Shelf:
    """Where its weights are."""
    assert model.origin is not None
    found = shelf_of(model, folder_of(model.origin.spec, model.origin.options))
    assert found is not None
    return found


@pytest.mark.parametrize("options", [OPTIONS, OPTIONS.model_copy(update={"precision": "bf16"})], ids=["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("arch", ["llama", "gemma2", "gpt_neox", "llava", "qwen2_5_vl", "smolvlm"])
def test_a_filled_frame_is_the_model(arch: str, lora: LoraConfig | None, options: ModelOptions, saved: Saved) -> None:
    whole = load_model(str(saved(arch)), options, lora, seed=7).model
    frame, places = framed(whole), shelf(whole)
    assert without_weights(frame.module)
    Filling(frame.module, places, folder_in(whole), CPU).fill(frame.module)
    assert not without_weights(frame.module)
    own, other = whole.named_parameters(), frame.named_parameters()
    assert own.keys() == other.keys()
    for name, p in own.items():
        assert torch.equal(p, other[name]), name
        assert (p.dtype, p.requires_grad) == (other[name].dtype, other[name].requires_grad), name
    for (name, one), (_, two) in zip(whole.module.named_buffers(), frame.module.named_buffers(), strict=True):
        assert torch.equal(one, two), name
    tie = [output_layer(m.module).weight is input_table(m.module) for m in (whole, frame)]
    assert tie[0] is tie[1]
    frame.packed = whole.packed
    tokens_1T = torch.arange(10, 20)[None]
    with torch.no_grad():
        assert torch.equal(*(m.run_plain(tokens_1T, torch.ones_like(tokens_1T)) for m in (whole, frame)))


def test_heads_are_there_at_once(saved: Saved) -> None:
    whole = load_model(str(saved("llama")), OPTIONS, heads=frozenset({"value"}), seed=7, new_heads=True).model
    frame = framed(whole)
    Filling(frame.module, shelf(whole), folder_in(whole), CPU).fill(frame.module)
    assert frame.digest() == whole.digest()


def test_layer_by_layer_no_more_is_held_than_was_asked_for(saved: Saved) -> None:
    whole = load_model(str(saved("llama")), OPTIONS).model
    frame = framed(whole)
    filling = Filling(frame.module, shelf(whole), folder_in(whole), CPU)

    def real(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if not p.is_meta)

    for layer in frame.module.get_decoder().layers:
        before = real(frame.module)
        filling.fill(layer)
        assert real(frame.module) - before == real(layer) == sum(p.numel() for p in layer.parameters())
        layer.to("meta")  # as sharing it out lets it go
    assert real(frame.module) == 0
    assert not filling._made, "what is no tie is not kept"


def test_rows_of_new_tokens_come_from_who_has_them(load: Callable[..., Any], tmp_path: Path) -> None:
    loaded = load("llama", "std=0.15&layers=8")
    loaded.tokenizer.add_tokens([f"<new{i}>" for i in range(loaded.model.head_weight_VH.shape[0] + 3 - len(loaded.tokenizer))])
    loaded.model.save(tmp_path / "m", loaded.tokenizer)
    whole = load_model(str(tmp_path / "m"), OPTIONS).model
    assert whole.head_weight_VH.shape[0] == len(loaded.tokenizer) > loaded.model.head_weight_VH.shape[0]
    frame, places = framed(whole), shelf(whole)
    assert places.rest.keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    Filling(frame.module, places, folder_in(whole), CPU).fill(frame.module)
    assert frame.digest() == whole.digest()


def test_no_shelf_where_the_files_have_other_names(saved: Saved, load: Callable[..., Any], tmp_path: Path) -> None:
    moe = load_model(str(saved("qwen3_moe")), OPTIONS).model
    assert shelf_of(moe, folder_of(str(tmp_path / "qwen3_moe"), OPTIONS)) is None, "single experts in the files"
    assert folder_of("tiny:llama", OPTIONS) is None
    assert folder_of(str(tmp_path / "model.gguf"), OPTIONS) is None
    assert shelf_of(load("llama").model, None) is None


def test_no_shelf_where_a_frame_would_be_another_model(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that files hold, a head that the config ties and the files do not, code of the model's own, files that are not read."""
    folder = saved("gemma2")

    def model() -> Model:
        return load_model(str(folder), OPTIONS).model

    whole = model()
    assert shelf_of(whole, folder) is not None
    whole.module.register_buffer("scale", torch.ones(1))
    assert shelf_of(whole, folder) is None
    assert "scale" in whole.proven()
    whole = model()
    output_layer(whole.module).weight = nn.Parameter(output_layer(whole.module).weight.detach().clone())
    assert shelf_of(whole, folder) is None
    trusted = load_model(str(folder), OPTIONS.model_copy(update={"trust_remote_code": True})).model
    assert shelf_of(trusted, folder) is None
    whole = model()
    (folder / "model.fp16.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    found = shelf_of(whole, folder)
    assert found is not None
    assert {name for name, _ in found.files.values()} == {"model.safetensors"}
    assert has_files(found, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert not has_files(found, folder)
    assert not has_files(found, None)
    assert shelf_of(whole, folder) is None, "no index names it"
    weights = {key: "model-00001-of-00001.safetensors" for _, key in found.files.values()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}), encoding="utf-8")
    assert shelf_of(whole, folder) is not None


def test_what_is_nowhere_or_changed_is_told(saved: Saved) -> None:
    whole = load_model(str(saved("llama")), OPTIONS).model
    places = shelf(whole)
    name = next(iter(places.files))
    for wrong, said in (
        (Shelf({k: v for k, v in places.files.items() if k != name}, places.rest), "is nowhere"),
        (
            Shelf({k: ("gone.safetensors", key) for k, (_, key) in places.files.items()}, places.rest),
            "cannot be read any more",
        ),
        (Shelf({k: v for k, v in places.files.items() if k != name}, {name: torch.zeros(2)}), "shape"),
    ):
        frame = framed(whole)
        with pytest.raises(ModelError, match=said):
            Filling(frame.module, wrong, folder_in(whole), CPU).fill(frame.module)
