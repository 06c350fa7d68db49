"""The transposed product of few rows: the numbers of ``F.linear`` up to rounding, whatever the number of rows.

Whether a row's last bits depend on the rows beside it is the processor's affair; ``keel.rollout.prove.row_dependence`` measures it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from keel.kernels.narrow import narrow_linear


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
