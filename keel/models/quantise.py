"""Weights in fewer bits. Each number of a row or of a group of a row becomes a whole number times their scale.

Two uses: a model that is only read keeps its decoder's matrices in 8 bits (a quarter of the memory), and a model is made as it will be read
from a file of such weights, so that what is lost can be measured before it goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from keel.core.errors import ModelError
from keel.kernels.narrow import output_layer

if TYPE_CHECKING:
    from keel.models.model import Model

Way = Literal["bf16", "f16", "q8_0", "int8", "int8_dynamic", "int4"]
_GROUP = 32  # numbers that share a scale in q8_0 and int4
_MOST_8, _MOST_4 = 127.0, 7.0


def rows_in_8_bits(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [O, I] and float32 scales [O]: the largest number of a row becomes 127. Rows of zeros have the scale 0."""
    scale_O = weight_OI.float().abs().amax(1) / _MOST_8
    return _whole(weight_OI.float(), scale_O[:, None], _MOST_8).to(torch.int8), scale_O


def _whole(weight: Tensor, scale: Tensor, most: float) -> Tensor:
    return (weight / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(-most, most)


def _by_groups(weight_OI: Tensor, most: float, half: bool) -> Tensor:
    """Symmetric, a scale for each 32 neighbours of a row (kept in 16 bits where ``half``). A row that 32 does not divide stays as it is."""
    if weight_OI.shape[-1] % _GROUP:
        return weight_OI
    groups = weight_OI.float().reshape(-1, _GROUP)
    scale = groups.abs().amax(1, keepdim=True) / most
    kept = scale.half().float() if half else scale
    return (_whole(groups, scale, most) * kept).view(weight_OI.shape)


def _int8(weight_OI: Tensor) -> Tensor:
    whole_OI, scale_O = rows_in_8_bits(weight_OI)
    return whole_OI.float() * scale_O[:, None]


_AS_READ: Mapping[str, Callable[[Tensor], Tensor]] = {
    "bf16": lambda w: w.bfloat16().float(),
    "f16": lambda w: w.half().float(),
    "q8_0": lambda w: _by_groups(w, _MOST_8, half=True),
    "int8": _int8,
    "int8_dynamic": _int8,
    "int4": lambda w: _by_groups(w, _MOST_4, half=False),
}
_WHOLE_FILE = ("bf16", "f16", "q8_0")  # ways that keep every matrix so, the tables of tokens too


def as_read(weight_OI: Tensor, way: Way) -> Tensor:
    """float32 [O, I]: a matrix as it comes back from being kept ``way``.

    ``int8``: a scale a row; ``int8_dynamic``: the same, and what is multiplied is rounded too (see ``Int8Linear``); ``int4``: a scale for
    32 numbers; ``q8_0``: GGUF's, the same with 8 bits and the scale in 16.
    """
    return _AS_READ[way](weight_OI)


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8 with a float32 scale a row. ``dynamic``: its inputs are rounded to 8 bits too, with a scale for
    each token (W8A8). It is read, not trained."""

    def __init__(self, linear: nn.Linear, dynamic: bool = False) -> None:
        super().__init__()
        whole_OI, scale_O = rows_in_8_bits(linear.weight.detach())
        self.register_buffer("whole_OI", whole_OI)
        self.register_buffer("scale_O", scale_O)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.in_features, self.out_features, self.dynamic = linear.in_features, linear.out_features, dynamic

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], in the type of ``x``."""
        weight_OI, scale_O = cast(Tensor, self.whole_OI), cast(Tensor, self.scale_O)
        if self.dynamic:
            step = x.float().abs().amax(-1, keepdim=True) / _MOST_8
            y = nn.functional.linear(_whole(x.float(), step, _MOST_8), weight_OI.float()) * step * scale_O
        else:
            y = nn.functional.linear(x, weight_OI.to(x.dtype)) * scale_O
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def pack_decoder(module: Any, dynamic: bool = False) -> int:
    """Put ``Int8Linear`` in place of every linear layer of the decoder but the head. Returns how many."""
    head = output_layer(module)
    decoder = module.get_decoder()
    found = [
        (owner, name, layer)
        for owner in decoder.modules()
        for name, layer in owner.named_children()
        if isinstance(layer, nn.Linear) and layer is not head
    ]
    for owner, name, layer in found:
        setattr(owner, name, Int8Linear(layer, dynamic))
    return len(found)


def quantise_model(model: Model, way: Way) -> None:
    """``quantise`` of a model, or of all members of an ensemble. Raises ModelError for adapters on one base: their sum is never made."""
    members = model.members or (model,)
    if any(member.peft_model is not None for member in members):
        raise ModelError("adapters that are not merged cannot be kept in fewer bits", "merge them first: final/ of the run has them merged")
    for member in members:
        quantise(member.module, way)


@torch.no_grad()
def quantise(module: Any, way: Way) -> None:
    """Make a model's weights those that are read where it is kept ``way``. bf16, f16, q8_0: all matrices, as in a file; the others: the
    decoder's linear layers, the head and the tables of tokens stay as they are."""
    if way == "int8" or way == "int8_dynamic":
        pack_decoder(module, dynamic=way == "int8_dynamic")
        return
    seen: set[int] = set()
    head = output_layer(module)
    layers = [m for m in module.get_decoder().modules() if isinstance(m, nn.Linear) and m is not head]
    weights = list(module.parameters()) if way in _WHOLE_FILE else [m.weight for m in layers]
    for p in weights:
        if p.dim() > 1 and id(p) not in seen:
            seen.add(id(p))
            p.copy_(as_read(p, way))
