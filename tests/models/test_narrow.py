"""The transposed product of few rows: the numbers of ``F.linear`` up to rounding, whatever the number of rows, and only inside its context.

Whether a row's last bits depend on the rows beside it is the processor's affair; ``keel.rollout.prove.row_dependence`` measures it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from keel.kernels import narrow
from keel.kernels.narrow import DecodeWeights, narrow_linear, narrow_linears


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(320, 512)


@pytest.mark.parametrize("shape", [(2, 320), (7, 1, 320), (3, 5, 320), (48, 320), (49, 320), (1, 320), (100, 320)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_linear(layer: nn.Linear, shape: tuple[int, ...], bias: bool) -> None:
    x = torch.randn(shape)
    bias_O = layer.bias if bias else None
    found = narrow_linear(x, layer.weight, bias_O)
    assert found.shape == (*shape[:-1], 512)
    torch.testing.assert_close(found, F.linear(x.double(), layer.weight.double(), bias_O.double() if bias else None).float())  # type: ignore[union-attr]


def test_a_row_has_the_same_numbers_among_few_and_many(layer: nn.Linear) -> None:
    x_BI = torch.randn(48, 320)
    whole_BO = narrow_linear(x_BI, layer.weight, layer.bias)
    for rows in range(4, 48, 3):
        torch.testing.assert_close(narrow_linear(x_BI[:rows], layer.weight, layer.bias), whole_BO[:rows], rtol=1e-5, atol=1e-5)


def test_layers_take_it_inside_the_context_only(layer: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    monkeypatch.setattr(narrow, "narrow_linear", lambda x, *rest: calls.append(len(x)) or F.linear(x, *rest))
    x = torch.randn(5, 320)
    with contextlib.suppress(KeyError), narrow_linears():
        layer(x)
        raise KeyError
    layer(x)
    assert calls == [5]


def test_gradients_flow_through_it(layer: nn.Linear) -> None:
    x = torch.randn(6, 320, requires_grad=True)
    narrow_linear(x, layer.weight, layer.bias).square().sum().backward()
    grads = [x.grad, layer.weight.grad, layer.bias.grad]
    y = x.detach().clone().requires_grad_()
    layer.zero_grad()
    F.linear(y, layer.weight, layer.bias).square().sum().backward()
    for found, expected in zip(grads, [y.grad, layer.weight.grad, layer.bias.grad]):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_half_precision_and_small_weights_are_left_alone(layer: nn.Linear) -> None:
    small = nn.Linear(8, 8)
    x = torch.randn(5, 8)
    assert narrow_linear(x, small.weight).is_contiguous()
    assert not narrow_linear(torch.randn(5, 320), layer.weight).is_contiguous()
    assert narrow_linear(torch.randn(5, 320).bfloat16(), layer.weight.bfloat16()).is_contiguous()


@pytest.mark.parametrize("out", [512, 4096])  # a transposed copy; beyond a core's cache a packed one
@pytest.mark.parametrize("shape", [(4, 320), (16, 1, 320), (3, 5, 320)])
@pytest.mark.parametrize("bias", [True, False])
def test_copies_give_the_same_numbers(out: int, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(320, out, bias=bias)
    copies = DecodeWeights([layer.weight], rows=16, steps=100)
    x = torch.randn(shape)
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None).float()
    with torch.no_grad(), narrow_linears(copies):
        assert copies.product(x.reshape(-1, 320), layer.weight) is not None
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(narrow_linear(x, layer.weight, layer.bias), expected)
    with torch.no_grad():
        layer.weight.zero_()
        assert not layer(x).sub(layer.bias if bias else 0).any()  # outside, no copy is looked at: the weight is 0 now


@pytest.mark.parametrize("out", [512, 4096])
def test_a_row_of_a_copy_has_the_same_numbers_among_few_and_many(out: int) -> None:
    torch.manual_seed(0)
    weight_OI, x_RI = torch.randn(out, 320), torch.randn(24, 320)
    copies = DecodeWeights([weight_OI], rows=24, steps=100)
    whole_RO = copies.product(x_RI, weight_OI)
    for rows in range(2, 24):
        found = copies.product(x_RI[:rows], weight_OI)
        assert found is not None
        assert whole_RO is not None
        torch.testing.assert_close(found, whole_RO[:rows], rtol=1e-5, atol=5e-5)


def test_copies_are_made_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, half = torch.randn(64, 64), torch.randn(4096, 320), torch.randn(64, 64).bfloat16()

    def made(rows: int = 16, steps: int = 100) -> list[bool]:
        copies = DecodeWeights([small, large, half], rows, steps)
        return [copies.product(torch.randn(4, w.shape[1], dtype=w.dtype), w) is not None for w in (small, large, half)]

    assert made() == [True, torch.backends.mkl.is_available(), False]
    assert made(rows=100) == [True, False, False]
    assert made(steps=4) == [False, False, False]
    monkeypatch.setattr(narrow, "_MOST_COPIED", 1000)
    assert made() == [False, False, False]
