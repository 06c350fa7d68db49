"""Products of the layers that every decoded token goes through, on a CPU: copies of weights in the order that products of few rows read.

Decoding multiplies a few dozen rows by every weight, and most of what ``x W^T`` then costs is bringing the weight into the order that the
product reads it in, anew each time. A wave of rows makes a copy in that order once, for all of its steps:

- float32: a weight that fits into a core's cache is transposed, a large one is packed by MKL where there is MKL;
- bfloat16: packed by oneDNN, where the processor has such instructions.

Layers that read the same input (queries, keys and values; the two halves of a gated MLP) are one product. Adapters are part of the copy in
float32. In bfloat16 they stay products of their own, since a sum rounded to bfloat16 would lose most of a small adapter.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keel.kernels.narrow import narrow_linear

Product = Callable[[Tensor], Tensor]

CACHED_WEIGHT = 1 << 20  # up to this many numbers a float32 weight is transposed, beyond it is packed
_MOST_PACKED_ROWS = 24  # beyond, packing a large float32 weight gains nothing
_FEWEST_STEPS = 16  # a copy costs about as much as it saves in half of these
_MOST_COPIED = 1 << 29  # numbers in all copies: 2 GB in float32


@dataclass(frozen=True, slots=True)
class Adapter:
    """``scale * up @ down`` is added to a weight."""

    down_RI: Tensor
    up_OR: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class LinearUnit:
    """A module that computes ``x (W + adapters)^T + b``."""

    module: nn.Module
    weight_OI: Tensor
    bias_O: Tensor | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def numbers(self) -> int:
        return self.weight_OI.numel()


class DecodeProducts:
    """How linear modules compute while a wave of rows is decoded; true as long as their weights do not change."""

    def __init__(self, groups: Sequence[Sequence[LinearUnit]], head: LinearUnit | None, rows: int, steps: int, dtype: torch.dtype) -> None:
        """``groups``: modules that read the same input. Copies are made where ``steps`` products of at most ``rows`` rows are worth it."""
        units = [unit for group in groups for unit in group]
        numbers = sum(unit.numbers for unit in units) + (head.numbers if head is not None else 0)
        copied = steps >= _FEWEST_STEPS and numbers <= _MOST_COPIED
        self.head: Product | None = None
        self._calls: list[tuple[nn.Module, Product]] = []
        with torch.no_grad():
            for group in groups:
                for part in _joined(group, dtype):
                    product = _copy(part, rows, dtype) if copied else None
                    self._calls += _members(part, product) if product is not None else _plain(part)
            if head is not None and copied:
                self.head = _copy([head], rows, dtype)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the modules compute by their copies. The rest is as it was."""
        for module, call in self._calls:
            module.__dict__["forward"] = call
        try:
            yield
        finally:
            for module, _ in self._calls:
                module.__dict__.pop("forward", None)


NO_PRODUCTS = DecodeProducts((), None, 0, 0, torch.float32)


@contextlib.contextmanager
def same_inputs(units: Sequence[LinearUnit], found: list[list[LinearUnit]]) -> Iterator[None]:
    """Watch one pass: ``found`` gets the units in groups that were called one after the other with the very same input. A unit that is
    called more than once, or not at all, stands alone."""
    calls: list[tuple[LinearUnit, bool]] = []  # unit, and whether its input was that of the call before
    last: list[Tensor | None] = [None]

    def watched(unit: LinearUnit) -> Product:
        usual = unit.module.forward

        def forward(x: Tensor) -> Tensor:
            calls.append((unit, x is last[0]))
            last[0] = x
            return usual(x)

        return forward

    for unit in units:
        unit.module.__dict__["forward"] = watched(unit)
    try:
        yield
    finally:
        for unit in units:
            unit.module.__dict__.pop("forward", None)
    times = Counter(id(unit) for unit, _ in calls)
    once = [(unit, same) for unit, same in calls if times[id(unit)] == 1]
    for unit, same in once:
        if same and found and found[-1][0].weight_OI.shape[1] == unit.weight_OI.shape[1]:
            found[-1].append(unit)
        else:
            found.append([unit])
    seen = {id(unit) for unit, _ in once}
    found += [[unit] for unit in units if id(unit) not in seen]


def usable(dtype: torch.dtype) -> bool:
    """Are there copies for products of this kind on this processor?"""
    if dtype == torch.bfloat16:
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _joined(group: Sequence[LinearUnit], dtype: torch.dtype) -> list[list[LinearUnit]]:
    """The group in parts that are one product each: float32 weights as long as their copy fits into a core's cache."""
    parts: list[list[LinearUnit]] = []
    for unit in group:
        fits = dtype == torch.bfloat16 or (bool(parts) and sum(u.numbers for u in parts[-1]) + unit.numbers <= CACHED_WEIGHT)
        if parts and fits:
            parts[-1].append(unit)
        else:
            parts.append([unit])
    return parts


def _copy(part: Sequence[LinearUnit], rows: int, dtype: torch.dtype) -> Product | None:
    """The product of these units, side by side, by a copy; None where there is none."""
    if not usable(dtype) or any(unit.weight_OI.device.type != "cpu" for unit in part):
        return None
    bias_O = None
    if any(unit.bias_O is not None for unit in part):
        bias_O = torch.cat([_zeros(unit) if unit.bias_O is None else unit.bias_O.detach() for unit in part]).to(dtype)
    if dtype == torch.bfloat16:
        return _packed_bf16(part, bias_O, rows)
    weight_OI = torch.cat([_merged(unit) for unit in part]) if len(part) > 1 else _merged(part[0])
    if weight_OI.numel() <= CACHED_WEIGHT:
        return _transposed(weight_OI, bias_O)
    if rows <= _MOST_PACKED_ROWS and torch.backends.mkl.is_available():
        return _packed_by_mkl(weight_OI, bias_O, rows)
    return (lambda x: narrow_linear(x, weight_OI, bias_O)) if part[0].adapters else None


def _zeros(unit: LinearUnit) -> Tensor:
    return torch.zeros(len(unit.weight_OI))


def _merged(unit: LinearUnit) -> Tensor:
    weight_OI = unit.weight_OI.detach().float()
    for a in unit.adapters:
        weight_OI = torch.addmm(weight_OI, a.up_OR.detach().float(), a.down_RI.detach().float(), alpha=a.scale)
    return weight_OI


def _transposed(weight_OI: Tensor, bias_O: Tensor | None) -> Product:
    weight_IO = weight_OI.t().contiguous()
    if bias_O is None:
        return lambda x: torch.matmul(x, weight_IO)
    return lambda x: torch.matmul(x, weight_IO).add_(bias_O)


def _packed_by_mkl(weight_OI: Tensor, bias_O: Tensor | None, rows: int) -> Product:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight_OI, rows)
    return lambda x: torch.ops.mkl._mkl_linear(x, packed, weight_OI, bias_O, x.numel() // x.shape[-1])


def _packed_bf16(part: Sequence[LinearUnit], bias_O: Tensor | None, rows: int) -> Product:
    def packed(weight_OI: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight_OI, rows)

    weight = packed(torch.cat([unit.weight_OI.detach().to(torch.bfloat16) for unit in part]))
    linear = torch.ops.mkldnn._linear_pointwise

    def plain(x: Tensor) -> Tensor:
        return linear(x.to(torch.bfloat16), weight, bias_O, "none", [], "")

    adapters = [(index, a) for index, unit in enumerate(part) for a in unit.adapters]
    if not adapters:
        return plain
    down = packed(torch.cat([a.down_RI.detach().to(torch.bfloat16) for _, a in adapters]))
    up = packed(_side_by_side(part, adapters).to(torch.bfloat16))

    def adapted(x: Tensor) -> Tensor:
        low = x.to(torch.bfloat16)
        return plain(low).add_(linear(linear(low, down, None, "none", [], ""), up, None, "none", [], ""))

    return adapted


def _side_by_side(part: Sequence[LinearUnit], adapters: Sequence[tuple[int, Adapter]]) -> Tensor:
    """``scale * up`` of all adapters as one matrix [O, R]: each reads its own part of R and adds to its own unit's part of O."""
    sizes = [len(unit.weight_OI) for unit in part]
    out_OR = torch.zeros(sum(sizes), sum(a.up_OR.shape[1] for _, a in adapters))
    column = 0
    for index, a in adapters:
        first, rank = sum(sizes[:index]), a.up_OR.shape[1]
        out_OR[first : first + sizes[index], column : column + rank] = a.scale * a.up_OR.detach().float()
        column += rank
    return out_OR


def _plain(part: Sequence[LinearUnit]) -> list[tuple[nn.Module, Product]]:
    """Without copies: the product that suits few rows, for modules without adapters."""

    def product(unit: LinearUnit) -> Product:
        return lambda x: narrow_linear(x, unit.weight_OI, unit.bias_O)

    return [(unit.module, product(unit)) for unit in part if not unit.adapters]


def _members(part: Sequence[LinearUnit], product: Product) -> list[tuple[nn.Module, Product]]:
    """Each module's share of one product. The first that is called computes it for all that are then called with the very same input."""
    if len(part) == 1:
        return [(part[0].module, product)]
    sizes = [len(unit.weight_OI) for unit in part]
    held: list[tuple[Tensor, int, tuple[Tensor, ...]]] = []  # the last input, its version, the product

    def member(index: int) -> Product:
        def forward(x: Tensor) -> Tensor:
            if held and held[0][0] is x and held[0][1] == x._version:
                out = held[0][2][index]
                if index == len(sizes) - 1:
                    held.clear()
                return out
            parts = product(x).split(sizes, -1)
            held[:] = [(x, x._version, parts)]
            return parts[index]

        return forward

    return [(unit.module, member(index)) for index, unit in enumerate(part)]
