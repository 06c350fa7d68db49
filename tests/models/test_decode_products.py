"""Copies of weights for decoding: the numbers of the modules themselves, adapters and siblings included, and only inside the context."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from keel.kernels import decode_products
from keel.kernels.decode_products import Adapter, DecodeProducts, LinearUnit, same_inputs, usable
from keel.models.config import LoraConfig, ModelOptions
from keel.models.loading import load_model
from keel.models.lora import linear_units
from keel.rollout.prove import decode_error

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # relative to the largest number


def unit(out: int, bias: bool = False, adapter: bool = False, inputs: int = 96) -> LinearUnit:
    layer = nn.Linear(inputs, out, bias=bias)
    adapters = (Adapter(torch.randn(4, inputs), torch.randn(out, 4), 0.3),) if adapter else ()
    return LinearUnit(layer, layer.weight, layer.bias if bias else None, adapters)


def exact(x: Tensor, u: LinearUnit) -> Tensor:
    """In float64, apart from the implementation."""
    out = x.double() @ u.weight_OI.double().T
    for a in u.adapters:
        out = out + a.scale * (x.double() @ a.down_RI.double().T) @ a.up_OR.double().T
    return out if u.bias_O is None else out + u.bias_O.double()


def skip_without(dtype: torch.dtype) -> None:
    if not usable(dtype):
        pytest.skip(f"this processor packs no weights of {dtype}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 96), (16, 1, 96), (3, 5, 96)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_siblings_give_the_numbers_of_each(dtype: torch.dtype, shape: tuple[int, ...], bias: bool, adapter: bool) -> None:
    skip_without(dtype)
    torch.manual_seed(0)
    group = [unit(64, bias, adapter), unit(32), unit(160, bias=True, adapter=adapter)]
    products = DecodeProducts([group], None, rows=16, steps=100, dtype=dtype)
    x = torch.randn(shape)
    with torch.no_grad(), products.in_place():
        found = [u.module(x) for u in group]
    for u, out in zip(group, found, strict=True):
        expected = exact(x, u)
        assert out.shape == (*shape[:-1], len(u.weight_OI))
        assert (out.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_weight_is_packed(dtype: torch.dtype) -> None:
    skip_without(dtype)
    torch.manual_seed(0)
    head = unit(12000)
    products = DecodeProducts([], head, rows=16, steps=100, dtype=dtype)
    assert (products.head is not None) == (dtype == torch.bfloat16 or torch.backends.mkl.is_available())
    if products.head is not None:
        for rows in (16, 5):  # rows leave a wave
            x = torch.randn(rows, 96)
            expected = exact(x, head)
            with torch.no_grad():
                assert (products.head(x).double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def test_modules_compute_by_copies_inside_the_context_only() -> None:
    group = [unit(64, bias=True), unit(32)]
    products = DecodeProducts([group], None, rows=4, steps=100, dtype=torch.float32)
    x = torch.randn(4, 96)
    before = [u.module(x) for u in group]
    with torch.no_grad():
        for u in group:
            u.weight_OI.zero_()
        with contextlib.suppress(KeyError), products.in_place():
            for u, expected in zip(group, before, strict=True):
                torch.testing.assert_close(u.module(x), expected)
            raise KeyError
        assert not group[1].module(x).any()  # the weight is 0 now, and no copy is looked at


def test_another_input_or_a_changed_one_is_computed_anew() -> None:
    group = [unit(64), unit(32), unit(16)]
    products = DecodeProducts([group], None, rows=4, steps=100, dtype=torch.float32)
    x, y = torch.randn(4, 96), torch.randn(4, 96)
    with torch.no_grad(), products.in_place():
        group[0].module(x)
        torch.testing.assert_close(group[1].module(y), exact(y, group[1]).float())
        torch.testing.assert_close(group[1].module(x), exact(x, group[1]).float())
        x.mul_(2)
        torch.testing.assert_close(group[2].module(x), exact(x, group[2]).float())
        torch.testing.assert_close(group[0].module(x), exact(x, group[0]).float())


def test_siblings_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(part, rows, dtype):
        made.append(len(part))
        return lambda x: F.linear(x, torch.cat([u.weight_OI for u in part]))

    monkeypatch.setattr(decode_products, "_copy", counting)
    DecodeProducts([[unit(64), unit(32)], [unit(8)]], None, rows=4, steps=100, dtype=torch.float32)
    assert made == [2, 1]
    made.clear()
    monkeypatch.setattr(decode_products, "CACHED_WEIGHT", 96 * 64)  # siblings that would not fit into a cache side by side
    DecodeProducts([[unit(64), unit(32)]], None, rows=4, steps=100, dtype=torch.float32)
    assert made == [1, 1]


def test_copies_are_made_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    large = unit(12000)

    def made(rows: int = 16, steps: int = 100) -> bool:
        return DecodeProducts([], large, rows, steps, torch.float32).head is not None

    assert made() == torch.backends.mkl.is_available()
    assert not made(rows=100)
    assert not made(steps=4)
    monkeypatch.setattr(decode_products, "_MOST_COPIED", 1000)
    assert not made()


def test_without_copies_modules_compute_what_they_did() -> None:
    group = [unit(700, bias=True), unit(32, adapter=True)]
    x = torch.randn(5, 96)
    before = [u.module(x) for u in group]
    with torch.no_grad(), DecodeProducts([group], None, rows=5, steps=1, dtype=torch.float32).in_place():
        for u, expected in zip(group, before, strict=True):
            torch.testing.assert_close(u.module(x), expected, rtol=1e-5, atol=1e-5)


class Shared(nn.Module):
    """Two layers that read one input, one that reads another, one that is called twice, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.twice, self.idle = (nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) + self.b(x)) + self.twice(x) + self.twice(x)


def test_who_reads_the_same_input_is_seen_in_one_pass() -> None:
    model = Shared()
    units, found = linear_units(model), list[list[LinearUnit]]()
    x = torch.randn(3, 8)
    expected = model(x)
    with same_inputs(units, found):
        assert torch.equal(model(x), expected)
    names = {id(m): name for name, m in model.named_modules()}
    assert sorted([names[id(u.module)] for u in group] for group in found) == [["a", "b"], ["c"], ["idle"], ["twice"]]
    with torch.no_grad(), DecodeProducts(found, None, rows=3, steps=100, dtype=torch.float32).in_place():
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma2"])
def test_decoding_with_adapters_equals_whole_passes(arch: str, precision: Literal["fp32", "bf16"]) -> None:
    """Adapters that are far from 0, as after much training."""
    loaded = load_model(f"tiny:{arch}?std=0.1", ModelOptions(precision=precision, device="cpu"), LoraConfig(r=4, alpha=8), seed=3)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in loaded.model.trainable():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
    assert any(u.adapters for u in linear_units(loaded.model.module))
    assert decode_error(loaded.model) < (1e-5 if precision == "fp32" else 5e-2)


def adapted(model) -> list[Adapter]:
    return [a for u in model.linear_units()[0] for a in u.adapters]


def test_units_have_the_adapters_that_are_on() -> None:
    model = load_model("tiny:llama", ModelOptions(precision="fp32", device="cpu"), LoraConfig(r=4, alpha=8), seed=3).model
    peft_model = model.peft_model
    assert peft_model is not None
    ours = adapted(model)
    assert ours
    with model.as_reference():
        assert not adapted(model)
    peft_model.add_adapter("other", peft_model.peft_config["default"])
    model.adapter = "other"
    peft_model.set_adapter("default")
    theirs = adapted(model)
    assert len(theirs) == len(ours)
    assert not {id(a.down_RI) for a in ours} & {id(a.down_RI) for a in theirs}


def test_a_layer_with_a_product_of_its_own_is_left_alone() -> None:
    """Layers of packed numbers are linear by name: their weight is no matrix."""

    class Packed(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input * 2

    plain = nn.Linear(4, 4)
    assert [u.module for u in linear_units(nn.Sequential(Packed(4, 4), plain))] == [plain]
