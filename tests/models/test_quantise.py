"""Weights in fewer bits: how far they may be off, that the packed layer computes with them, and that nobody trains or saves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from keel.core.errors import ModelError
from keel.learner.config import BatchConfig, OptimConfig
from keel.learner.local import LocalLearner
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.quantise import Int8Linear, as_read, quantise_model, rows_in_8_bits

pytestmark = pytest.mark.usefixtures("own_proofs")
Load = Callable[..., Any]


def test_rows_by_hand() -> None:
    whole_OI, scale_O = rows_in_8_bits(torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.0, 0.0]]))
    assert whole_OI.tolist() == [[127, -64, 0], [0, 0, 0]]
    assert scale_O.tolist() == [1.0, 0.0]


def test_no_number_is_off_by_more_than_half_a_step() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        weight_OI = torch.randn(6, 64) * 10 ** torch.empty(6, 1).uniform_(-3, 3)
        step_O1 = weight_OI.abs().amax(1, keepdim=True)
        assert bool(((as_read(weight_OI, "int8") - weight_OI).abs() <= step_O1 / 127 * 0.501).all())
        groups = weight_OI.view(6, 2, 32).abs().amax(2, keepdim=True)
        gap = (as_read(weight_OI, "int4") - weight_OI).view(6, 2, 32).abs()
        assert bool((gap <= groups / 7 * 0.501).all())


def test_q8_0_is_gguf_s() -> None:
    """Up to the way that halves are rounded: theirs away from zero, torch's to even."""
    torch.manual_seed(0)
    weight_OI = torch.randn(8, 96)
    kind = gguf.GGMLQuantizationType.Q8_0
    theirs = torch.from_numpy(np.asarray(gguf.quants.dequantize(gguf.quants.quantize(weight_OI.numpy(), kind), kind)))
    torch.testing.assert_close(as_read(weight_OI, "q8_0"), theirs, rtol=0, atol=2e-3 * float(weight_OI.abs().max()) / 127)


def test_the_packed_layer_computes_with_what_it_reads() -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(32, 16), torch.randn(2, 5, 32)
    expected = nn.functional.linear(x, as_read(linear.weight.detach(), "int8"), linear.bias)
    torch.testing.assert_close(Int8Linear(linear)(x), expected, rtol=1e-5, atol=1e-5)
    dynamic = Int8Linear(linear, dynamic=True)(x)
    step = x.abs().amax(-1, keepdim=True) / 127
    torch.testing.assert_close(
        dynamic, nn.functional.linear((x / step).round() * step, as_read(linear.weight.detach(), "int8"), linear.bias), rtol=1e-4, atol=1e-5
    )
    assert not torch.equal(dynamic, Int8Linear(linear)(x)), "what is multiplied is rounded too"


@pytest.mark.parametrize("way", ["int8", "int8_dynamic"])
def test_a_reward_model_is_loaded_in_8_bits(way: Any, load: Load) -> None:
    plain = load("llama", heads=frozenset({"score"}))
    packed = load("llama", heads=frozenset({"score"}), quantise=way)
    layers = [m for m in packed.model.module.modules() if isinstance(m, Int8Linear)]
    assert len(layers) == sum(isinstance(m, nn.Linear) for m in plain.model.module.get_decoder().modules()) > 0
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        one, two = (m.model.run_plain(ids, torch.ones_like(ids)) for m in (plain, packed))
    relative = float((one - two).norm() / one.norm())
    assert 0 < relative < 0.1


def test_it_is_neither_trained_nor_saved(load: Load, tmp_path: Any) -> None:
    packed = load("llama", quantise="int8")
    with pytest.raises(ModelError, match="cannot be trained"):
        LocalLearner(packed.model, OptimConfig(lr=1e-3), BatchConfig(), 1, 0)
    with pytest.raises(ModelError, match="cannot be saved"):
        packed.model.save(tmp_path / "final", packed.tokenizer)
    assert not (tmp_path / "final").exists()
    with pytest.raises(ModelError, match="cannot be trained"):
        load_model("tiny:llama", ModelOptions(precision="fp32", device="cpu", quantise="int8"), LoraConfig(r=2))
    with pytest.raises(ModelError, match="merge them first"):
        quantise_model(load("llama", lora=LoraConfig(r=2)).model, "int8")


@pytest.mark.parametrize("way", ["bf16", "f16", "q8_0", "int8", "int8_dynamic", "int4"])
def test_every_way_changes_a_model_a_little(way: Any, load: Load) -> None:
    loaded = load("qwen2")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = loaded.model.run_plain(ids, torch.ones_like(ids))
    quantise_model(loaded.model, way)
    with torch.no_grad():
        after = loaded.model.run_plain(ids, torch.ones_like(ids))
    assert 0 < float((before - after).norm() / before.norm()) < 0.5
