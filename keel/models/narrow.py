"""Linear layers of few rows on a CPU, the other way round: ``(W x^T)^T`` in place of ``x W^T``.

Decoding multiplies a few dozen rows by every weight. In float32, MKL's kernels for that shape reach half of what they reach on the
transposed product (two cores, 31 rows, a 576 x 1536 weight: 39 against 82 GFLOP/s), and their rounding depends on the number of rows below
16, where that of the transposed product does not. From about 50 rows on both are equally fast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MOST_ROWS = 48
_SMALLEST_WEIGHT = 1 << 16  # below, both take no time


@contextlib.contextmanager
def narrow_linears() -> Iterator[None]:
    """Within this context ``nn.Linear`` layers take the faster product where their input is narrow. The rest is as it was."""
    usual = nn.Linear.forward
    nn.Linear.forward = _forward
    try:
        yield
    finally:
        nn.Linear.forward = usual


def narrow_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``F.linear``, by the transposed product where that is faster: then the result [..., O] is not contiguous."""
    rows = x.numel() // max(1, x.shape[-1])
    if not 1 < rows <= _MOST_ROWS or weight_OI.numel() < _SMALLEST_WEIGHT or not _float32_cpu(x, weight_OI):
        return F.linear(x, weight_OI, bias_O)
    out_OR = torch.mm(weight_OI, x.reshape(rows, -1).t())
    if bias_O is not None:
        out_OR += bias_O[:, None]
    return out_OR.t() if x.dim() == 2 else out_OR.t().unflatten(0, x.shape[:-1])


def _forward(self: nn.Linear, input: Tensor) -> Tensor:
    return narrow_linear(input, self.weight, self.bias)


def _float32_cpu(x: Tensor, weight_OI: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == weight_OI.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
