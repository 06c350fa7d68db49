"""One model over several ranks: whole on each of them, or its layers shared out (FSDP2, Zhao et al. 2023, https://arxiv.org/abs/2304.11277).

Gradients are summed, never averaged: losses are divided by counts of the whole batch already, which every rank has."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from keel.core.errors import ConfigError, ModelError
from keel.core.hashing import digest_bytes
from keel.learner.group import Sharing
from keel.learner.team import Sum, balance_of, dealt
from keel.models.checksum import added, checksum, checksum_part
from keel.models.frame import Filling
from keel.models.model import Model
from keel.models.start_rows import StartRows
from keel.runs.pieces import Piece

T = TypeVar("T")
_BUCKET = 1 << 24  # numbers that are summed over ranks at once
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nobody writes into hidden states


class Trunk(nn.Module):
    """The module with its body as its forward: what is put together at its beginning (embedding, norm, language-model head, what is trained
    of towers and projector) stays whole until the backward pass is over. So losses may read the head's weight, and any number of images may
    go through the towers on one rank, and another number on the next."""

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self.module, self.device = model.module, device

    def forward(self, **inputs: Any) -> Any:
        return self.module.base_model(**inputs)


def shard(model: Model, mesh: DeviceMesh, sharing: Sharing, filling: Filling | None = None) -> None:
    """Leave this rank its share of the weights. Scalar heads stay whole on every rank, and so does what is frozen beside the decoder: a
    frozen tower is seldom asked, since what it makes of an image is kept. A frame gets its weights by ``filling``, one layer at a time, and
    last what lies in no layer. Raises ConfigError for what cannot be shared out."""
    _refuse(model)
    trunk, parts = Trunk(model, torch.device(mesh.device_type)), model.parts()
    before = {id(p): name for name, p in model.module.named_parameters()}
    fill = filling.fill if filling is not None else lambda part: None
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if sharing.offload else OffloadPolicy()
    for layer in _layers(model):
        fill(layer)
        fully_shard(layer, mesh=mesh, mp_policy=_precision(sharing), offload_policy=offload)
    fill(trunk)
    beside = {p for name, p in model.module.named_parameters() if parts[name] != "language" and not p.requires_grad}
    policies: dict[str, Any] = {"mp_policy": _precision(sharing, torch.float32), "offload_policy": offload}  # heads and losses read float32
    fully_shard(trunk, mesh=mesh, reshard_after_forward=False, ignored_params=beside, **policies)
    for part in trunk.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no product before the sum, and needs none
    now = dict(model.module.named_parameters())
    model.start_rows = [_start_of(now[before[id(s.weight_VH)]], s) for s in model.start_rows]
    model.towers = None  # it knows the weights as they were
    model.trunk = cast(Any, trunk)  # which is an FSDPModule now


def _start_of(weight: nn.Parameter, whole: StartRows) -> StartRows:
    """This rank's share of a weight's start."""
    piece = piece_of(weight)
    rows = whole.start_KH[piece.first : piece.first + len(piece.tensor)] if isinstance(weight, DTensor) else whole.start_KH
    return StartRows(weight, ..., like(weight, rows.to(piece.tensor.device, copy=True)))


def _precision(sharing: Sharing, out: torch.dtype | None = None) -> MixedPrecisionPolicy:
    """What weights are put together in; their gradients are summed in float32. ``out`` is what is handed on where they are rounded. Inputs
    are let alone: they come from rounded embeddings, and plans of attention are among them."""
    rounded = MixedPrecisionPolicy(torch.bfloat16, torch.float32, out, cast_forward_inputs=False)
    return rounded if sharing.rounded else MixedPrecisionPolicy(cast_forward_inputs=False)


def _layers(model: Model) -> list[nn.Module]:
    decoder = model.module.get_decoder()
    found = next(
        (getattr(decoder, name) for name in ("layers", "h", "blocks") if isinstance(getattr(decoder, name, None), nn.ModuleList)), None
    )
    if found is None:
        raise ModelError(f"the layers of a '{model.config.model_type}' model cannot be told apart", "set cluster.shard=1")
    return list(found)


def _refuse(model: Model) -> None:
    for wrong, what in (
        (any(s.rows_K is not ... for s in model.start_rows), "LoRA with new tokens"),
        (bool(model.members), "an ensemble"),
        (bool(model.quantised), "a model that is kept in 8 bits"),
    ):
        if wrong:
            raise ConfigError(f"cluster.shard=full cannot share out {what}", "set cluster.shard=1, or cluster.ranks=1")


class Ranks:
    """A ``Team`` over the processes of torch.distributed. ``talk`` is a group on the CPU for what is no gradient."""

    def __init__(self, device: torch.device, *, sharing: Sharing | None, timeout_s: float) -> None:
        """``sharing``: how weights are shared out; None: all ranks have them whole. ``timeout_s``: how long a rank waits for another one in
        a pass."""
        self.world, self.rank, self.lockstep = dist.get_world_size(), dist.get_rank(), sharing is not None
        self._sharing = sharing
        self.balance = 1.0
        self.device, self._talk = device, dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._trunks: list[FSDPModule] = []
        self._mesh = DeviceMesh(device.type, list(range(self.world)))

    def take(self, model: Model, filling: Filling | None = None) -> Model:
        """Share out a model's weights, where they are to be; those of a frame come by ``filling``."""
        if self._sharing is not None:
            shard(model, self._mesh, self._sharing, filling)
            self._trunks.append(cast(Any, model.trunk))
        return model

    # ------------------------------------------------------------------------------------------------------------------ passes

    def deal(self, parts: Sequence[T], sizes: Sequence[int]) -> list[T | None]:
        places = dealt(sizes, self.world)
        self.balance = balance_of(sizes, places) if sizes else 1.0
        mine: list[T | None] = [parts[i] for i in places[self.rank]]
        idle = max(map(len, places)) - len(mine) if self.lockstep else 0
        return mine + [None] * idle

    def gather(self, mine: Sequence[T]) -> list[T]:
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, list(mine), group=self._talk)
        return [item for of_rank in found for item in of_rank]

    @contextmanager
    def adding_up(self, trained: Sequence[nn.Parameter]) -> Iterator[None]:
        """Sharded weights are added up in each backward pass; the others here, all at once."""
        own = [p for p in trained if not isinstance(p, DTensor)]
        before = [p.grad for p in own]
        for p in own:
            p.grad = None
        yield
        self._add_up(own)
        for p, gradient in zip(own, before, strict=True):
            if gradient is not None:
                p.grad = gradient if p.grad is None else p.grad.add_(gradient)

    def _add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        if not parameters:
            return
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        dist.all_reduce(there, dist.ReduceOp.MAX, group=self._talk)
        named = [p for p, some in zip(parameters, there.tolist(), strict=True) if some]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in named]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradients[i].reshape(-1) for i in bucket])
            dist.all_reduce(flat)
            for i, part in zip(bucket, flat.split([gradients[i].numel() for i in bucket]), strict=True):
                named[i].grad = part.view_as(named[i]).clone()

    def rest(self) -> None:
        for trunk in self._trunks:
            trunk.reshard()

    # --------------------------------------------------------------------------------------------------------------- gradients

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        kinds = [g for g in gradients if isinstance(g, DTensor)], [g for g in gradients if not isinstance(g, DTensor)]
        norms = [_plain(nn.utils.get_total_norm(kind)) for kind in kinds if kind]
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack([norm.to(self.device) for norm in norms]))

    def clip(self, parameters: Sequence[nn.Parameter], most: float, norm: Tensor) -> None:
        for kind in (True, False):
            some = [p for p in parameters if isinstance(p, DTensor) is kind]
            if some:
                nn.utils.clip_grads_with_norm_(some, most, norm)

    # ----------------------------------------------------------------------------------------------------------------- weights

    def digest(self, model: Model) -> str:
        """The very digest that one process computes of the whole weights (``Model.digest``). Raises RuntimeError where weights that every
        rank has whole differ."""
        return digest_bytes(json.dumps([(s.name, s.checksum) for s in self.sums(dict(model.digested()))]).encode())

    def sums(self, named: Mapping[str, Tensor]) -> list[Sum]:
        """Checksums of the whole of these weights. Raises as ``digest``."""
        sums: list[Any] = [None] * self.world
        dist.all_gather_object(sums, [_checksum(p) for p in named.values()], group=self._talk)
        found: list[Sum] = []
        for (name, p), *parts in zip(named.items(), *sums, strict=True):
            if not isinstance(p, DTensor) and len(set(parts)) > 1:
                raise RuntimeError(f"the ranks have different weights: {name}")
            found.append(Sum(name, p.dtype, added(parts) if isinstance(p, DTensor) else parts[0]))
        return found


def _checksum(p: Tensor) -> int:
    if not isinstance(p, DTensor):
        return checksum(p)
    piece = piece_of(p)
    width = p.element_size() * p.numel() // max(1, p.shape[0])
    return checksum_part(piece.tensor, piece.first * width, p.numel() * p.element_size())


def piece_of(tensor: Tensor) -> Piece:
    """This rank's rows of a sharded tensor; all of one that every rank has whole."""
    if not isinstance(tensor, DTensor):
        return Piece(tensor.detach(), 0, tuple(tensor.shape))
    assert tensor.placements == (Shard(0),), tensor.placements
    rows = -(-tensor.shape[0] // tensor.device_mesh.size())  # torch.chunk's
    first = min(tensor.shape[0], rows * tensor.device_mesh.get_local_rank())
    return Piece(tensor.to_local().detach(), first, tuple(tensor.shape))


def like(tensor: Tensor, local: Tensor) -> Tensor:
    """``local`` rows as a tensor that is shared out as ``tensor`` is."""
    if not isinstance(tensor, DTensor):
        return local
    return DTensor.from_local(local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def whole_of(tensor: Tensor) -> Tensor:
    """All rows, put together on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _plain(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Places of tensors of one type, about ``_BUCKET`` numbers together."""
    bucket: list[int] = []
    size = 0
    for i, tensor in enumerate(tensors):
        if bucket and (size + tensor.numel() > _BUCKET or tensor.dtype != tensors[bucket[0]].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(i)
        size += tensor.numel()
    if bucket:
        yield bucket
