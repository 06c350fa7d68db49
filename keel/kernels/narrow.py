"""Linear layers of few rows on a CPU, by the product that suits them, float32 only: the product the other way round, ``(W x^T)^T``. MKL's
kernels for that shape reach up to twice of what they reach on the usual one; from about 50 rows on both are equally fast. Weights that are
used for many steps have something better: copies (``decode_products.py``).

Whether a row's last bits depend on how many rows stand beside it is a matter of the matrix library and the processor: with MKL on Intel
these products leave no trace of them from 2 rows on, on other processors they do. ``keel.rollout.prove.row_dependence`` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

_MOST_ROWS = 48
_SMALLEST_WEIGHT = 1 << 16  # below, both ways round take no time


def narrow_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``F.linear``, by the product that is faster: the result [..., O] may not be contiguous."""
    rows = x.numel() // max(1, x.shape[-1])
    if not 2 <= rows <= _MOST_ROWS or weight_OI.numel() < _SMALLEST_WEIGHT or not _float32_cpu(x, weight_OI):
        return F.linear(x, weight_OI, bias_O)
    out_OR = torch.mm(weight_OI, x.reshape(rows, -1).t())
    if bias_O is not None:
        out_OR += bias_O[:, None]
    return out_OR.t() if x.dim() == 2 else out_OR.t().unflatten(0, x.shape[:-1])


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
