"""A vision tower and a language model become one model that plain transformers loads and Keel's proofs hold on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from keel.core.errors import ModelError, UserError
from keel.models.align import align_projector
from keel.models.assemble import assemble, read_tower, template_of
from keel.models.config import ModelOptions
from keel.models.dinov2 import read_dinov2
from keel.models.loading import load_model
from keel.verbs.assemble import read_cells, run_assemble

SIDE = 28


def tower_of(kind: str) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": SIDE, "patch_size": 14}
    if kind == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**shape))
    config = {"clip": transformers.CLIPVisionConfig, "siglip": transformers.SiglipVisionConfig}[kind](**shape, intermediate_size=96)
    return {"clip": transformers.CLIPVisionModel, "siglip": transformers.SiglipVisionModel}[kind](config)


def folder_of(kind: str, path: Path) -> Path:
    tower_of(kind).save_pretrained(path)
    norms = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **norms}))
    return path


@pytest.mark.parametrize("kind", ["dinov2", "clip", "siglip"])
def test_the_model_is_plain_transformers_and_keels_paths_are_proven(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path / "tower")
    found = run_assemble(str(tmp_path / "vlm"), [f"vision={folder}", "language=tiny:llama?seed=3", "template=model"])
    assert found["image_tokens"] == 4
    plain = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "vlm")
    assert list(processor.image_processor.image_mean) == [0.4, 0.5, 0.6]
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    inputs = processor(text=text, images=[Image.new("RGB", (50, 40), "red")], return_tensors="pt")
    assert (inputs["input_ids"] == plain.config.image_token_id).sum() == 4
    assert torch.isfinite(plain(**inputs).logits).all()
    own = load_model("tiny:llama?seed=3", ModelOptions(precision="fp32")).model.module
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(plain(input_ids=ids).logits[..., : own.config.vocab_size], own(input_ids=ids).logits)
    tower = tower_of(kind)
    pixels = inputs["pixel_values"]
    torch.testing.assert_close(plain.model.vision_tower(pixels).last_hidden_state, tower.eval()(pixels).last_hidden_state)
    loaded = load_model(str(tmp_path / "vlm"), ModelOptions(precision="fp32")).model
    assert loaded.packed
    assert not loaded.no_images


def test_messages_of_text_alone_pass_through_the_template_unchanged(tmp_path: Path) -> None:
    folder = folder_of("dinov2", tmp_path / "tower")
    _, processor = assemble(read_tower(str(folder), 0), "tiny:llama", -1, "model", 0)
    said = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    own = load_model("tiny:llama", ModelOptions(precision="fp32")).tokenizer
    assert processor.apply_chat_template(said, add_generation_prompt=True) == own.apply_chat_template(
        said, add_generation_prompt=True, tokenize=False
    )


def test_chatml_needs_its_tokens() -> None:
    class Tokenizer:
        chat_template = None

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(UserError, match="im_start"):
        template_of("chatml", Tokenizer(), "some/model")
    with pytest.raises(UserError, match="no chat template"):
        template_of("model", Tokenizer(), "some/model")


def onnx_of(tower: Any, path: Path, lose: str = "") -> Path:
    """As exporters write it: a linear layer's weight turned over and without its name, class token and positions folded."""
    own = {name: t.detach() for name, t in tower.state_dict().items() if name not in (lose, "embeddings.mask_token")}
    nodes, tensors = [], []

    def constant(name: str, t: torch.Tensor) -> str:
        tensors.append(numpy_helper.from_array(t.contiguous().numpy(), name))
        return name

    positions = own.pop("embeddings.position_embeddings", None)
    if positions is not None:
        constant("onnx::a", positions[:, :1])
        constant("onnx::b", positions[:, 1:])
    longer = {".q_proj.": ".attention.query.", ".k_proj.": ".attention.key.", ".v_proj.": ".attention.value.", ".o_proj.": ".output.dense."}
    for name, t in own.items():
        old = name
        for new, before in longer.items():
            old = old.replace(f"attention{new}", f"attention{before}")
        linear = old.endswith(".weight") and t.dim() == 2
        if not linear:
            constant(f"backbone.{old}", t)
            continue
        weight = constant(f"onnx::MatMul_{len(nodes)}", t.T)
        nodes.append(helper.make_node("MatMul", ["x", weight], [f"y{len(nodes)}"]))
        nodes.append(helper.make_node("Add", [f"backbone.{old.removesuffix('weight')}bias", nodes[-1].output[0]], [f"z{len(nodes)}"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    onnx.save(helper.make_model(helper.make_graph(nodes, "tower", [x], [], tensors)), str(path))
    return path


def test_an_onnx_file_gives_the_tower_that_was_exported(tmp_path: Path) -> None:
    tower = tower_of("dinov2").eval()
    read = read_dinov2(onnx_of(tower, tmp_path / "tower.onnx"))
    assert read.config.image_size == SIDE
    pixels = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(read(pixels).last_hidden_state, tower(pixels).last_hidden_state)


def test_an_onnx_file_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layer\.1\.mlp\.fc1\.weight"):
        read_dinov2(onnx_of(tower_of("dinov2"), tmp_path / "tower.onnx", lose="encoder.layer.1.mlp.fc1.weight"))
    with pytest.raises(ModelError, match="no DINOv2"):
        read_dinov2(onnx_of(tower_of("dinov2"), tmp_path / "b.onnx", lose="embeddings.position_embeddings"))


def test_the_projector_is_set_near_the_words(tmp_path: Path) -> None:
    folder = folder_of("dinov2", tmp_path / "tower")
    module, processor = assemble(read_tower(str(folder), 0), "tiny:llama", -1, "model", 0)
    looks = {"red": "red", "blue": "blue", "": "white"}
    pictures = []
    for a in looks:
        for b in looks:
            image = Image.new("RGB", (SIDE, SIDE), looks[a])
            image.paste(looks[b], (SIDE // 2, 0, SIDE, SIDE))
            pictures.append((image, [[a, b]]))
    last, first = align_projector(module, processor, pictures, steps=150, lr=3e-3, seed=0)
    assert last < 0.2 * first
    # the left half of the picture (red | blue) is near the word of its left cell, the right half near the other's
    image, _ = pictures[1]
    rows = module.model.get_image_features(**processor.image_processor([image], return_tensors="pt")).pooler_output[0]
    table = module.get_input_embeddings().weight
    means = {w: table[processor.tokenizer(f" {w}", add_special_tokens=False)["input_ids"]].mean(0) for w in ("red", "blue")}
    for place, word, other in ((0, "red", "blue"), (1, "blue", "red"), (2, "red", "blue"), (3, "blue", "red")):
        assert (rows[place] - means[word]).norm() < (rows[place] - means[other]).norm()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "line 1"),
        ('{"images": ["a.png"]}', "'cells'"),
        ('{"images": ["a.png"], "cells": [["a"], ["b", "c"]]}', "one length"),
        ('{"images": ["gone.png"], "cells": [["a"]]}', "gone.png"),
        ("", "no rows"),
    ],
)
def test_cells_that_cannot_be_read_are_named(row: str, says: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "cells.jsonl").write_text(row)
    with pytest.raises(UserError, match=says):
        read_cells(tmp_path / "cells.jsonl")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["language=tiny:llava"], "reads images already"),
        (["language=tiny:llama", "pixels=30"], "multiple of 14"),
        (["language=tiny:llama", "align.path=gone.jsonl"], "gone.jsonl"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], says: str, tmp_path: Path) -> None:
    folder = folder_of("dinov2", tmp_path / "tower")
    with pytest.raises(UserError, match=says):
        run_assemble(str(tmp_path / "vlm"), [f"vision={folder}", *overrides])
    with pytest.raises(UserError, match="not installed"):
        run_assemble(str(tmp_path / "vlm"), ["vision=package:nobody_has_this/x.onnx", "language=tiny:llama"])
