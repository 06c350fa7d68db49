"""Linear layers of few rows on a CPU, by products that suit them.

Decoding multiplies a few dozen rows by every weight, and most of what ``x W^T`` then costs is bringing the weight into the order that the
product reads it in, anew each time. Two ways around that, float32 on a CPU only:

- ``DecodeWeights``: copies in that order, made once for many steps. A weight that fits into a core's cache is transposed (16 rows, a
  704 x 256 weight: 85 GFLOP/s in place of 52); a large one is packed by MKL where there is MKL (16 rows, 32000 x 256: 45 in place of 32).
- without a copy, the product the other way round, ``(W x^T)^T``: MKL's kernels for that shape reach up to twice of what they reach
  on the usual one. From about 50 rows on both are equally fast.

Whether a row's last bits depend on how many rows stand beside it is a matter of the matrix library and the processor: with MKL on Intel
these products leave no trace of them from 2 rows on, on other processors they do. ``keel.rollout.prove.row_dependence`` measures it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

_MOST_ROWS = 48
_SMALLEST_WEIGHT = 1 << 16  # below, both ways round take no time
_CACHED_WEIGHT = 1 << 20  # up to this many numbers a weight is transposed, beyond it is packed
_MOST_PACKED_ROWS = 24  # beyond, packing a large weight gains nothing
_FEWEST_STEPS = 16  # a copy costs about as much as it saves in half of these
_MOST_COPIED = 1 << 29  # numbers in all copies: 2 GB


class DecodeWeights:
    """Copies of the weights of linear layers for products of few rows, true as long as the weights do not change."""

    def __init__(self, weights: Iterable[Tensor], rows: int, steps: int) -> None:
        """``weights`` [out, in] are copied if ``steps`` products of at most ``rows`` rows are worth it."""
        self._transposed: dict[int, Tensor] = {}
        self._packed: dict[int, Tensor] = {}
        self._weights = [w for w in weights if _plain_float32(w)] if steps >= _FEWEST_STEPS else []  # kept: a copy is found by its id
        if sum(w.numel() for w in self._weights) > _MOST_COPIED:
            return
        with torch.no_grad():
            for weight in self._weights:
                if weight.numel() <= _CACHED_WEIGHT:
                    self._transposed[id(weight)] = weight.detach().t().contiguous()
                elif rows <= _MOST_PACKED_ROWS and torch.backends.mkl.is_available():
                    self._packed[id(weight)] = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), rows)

    def product(self, x: Tensor, weight_OI: Tensor) -> Tensor | None:
        """``x W^T`` [..., O] of float32 ``x``, or None when there is no copy of this weight."""
        transposed_IO = self._transposed.get(id(weight_OI))
        if transposed_IO is not None:
            return torch.matmul(x, transposed_IO)
        packed = self._packed.get(id(weight_OI))
        return None if packed is None else torch.ops.mkl._mkl_linear(x, packed, weight_OI, None, x.numel() // x.shape[-1])


_NO_COPIES = DecodeWeights((), 0, 0)
_copies = _NO_COPIES


@contextlib.contextmanager
def narrow_linears(copies: DecodeWeights = _NO_COPIES) -> Iterator[None]:
    """Within this context ``nn.Linear`` layers, and ``narrow_linear``, take the faster product where their input is narrow, by
    ``copies`` where they have one. The rest is as it was."""
    global _copies
    usual, before = nn.Linear.forward, _copies
    nn.Linear.forward, _copies = _forward, copies
    try:
        yield
    finally:
        nn.Linear.forward, _copies = usual, before


def narrow_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``F.linear``, by the product that is faster: the result [..., O] may not be contiguous."""
    rows = x.numel() // max(1, x.shape[-1])
    if rows < 2 or x.dtype != torch.float32:
        return F.linear(x, weight_OI, bias_O)
    out = _copies.product(x, weight_OI)
    if out is not None:
        return out if bias_O is None else out.add_(bias_O)
    if rows > _MOST_ROWS or weight_OI.numel() < _SMALLEST_WEIGHT or not _float32_cpu(x, weight_OI):
        return F.linear(x, weight_OI, bias_O)
    out_OR = torch.mm(weight_OI, x.reshape(rows, -1).t())
    if bias_O is not None:
        out_OR += bias_O[:, None]
    return out_OR.t() if x.dim() == 2 else out_OR.t().unflatten(0, x.shape[:-1])


def _forward(self: nn.Linear, input: Tensor) -> Tensor:
    return narrow_linear(input, self.weight, self.bias)


def _plain_float32(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.dim() == 2


def _float32_cpu(x: Tensor, weight_OI: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == weight_OI.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


_NUMBERS = 1 << 18  # in a block: 1 MB of float32
_FEWEST_ROWS = 4


def row_blocks(x_NV: Tensor) -> Iterator[slice]:
    """Slices of rows. Several operations one after the other on each block read the memory once, where on the whole matrix each reads it
    anew, and their results land in memory that is there already. A GPU takes all rows at once."""
    rows = len(x_NV) if x_NV.is_cuda else max(_FEWEST_ROWS, _NUMBERS // max(1, x_NV.shape[1]))
    for start in range(0, len(x_NV), max(1, rows)):
        yield slice(start, min(start + rows, len(x_NV)))


def input_table(module: PreTrainedModel) -> Tensor:
    """The input embedding's weight [V, H]."""
    return cast(nn.Embedding, module.get_input_embeddings()).weight


def output_layer(module: PreTrainedModel) -> nn.Linear:
    """The head that makes logits of hidden states."""
    return cast(nn.Linear, module.get_output_embeddings())


def tied(module: PreTrainedModel) -> bool:
    """Whether the head is the input embedding."""
    return output_layer(module).weight is input_table(module)
