"""A DINOv2 tower out of an ONNX file: packages on the registry hold it in this form, with weights that an exporter has renamed."""

from __future__ import annotations

import importlib.util
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from keel.core.errors import ModelError

_PREFIX = "backbone."
_HEAD_DIM = 64  # of every published DINOv2
_NEVER_USED = "embeddings.mask_token"  # of pre-training alone; exporters leave it out


def read_dinov2(path: Path) -> transformers.Dinov2Model:
    """The tower of an ONNX export of transformers' DINOv2, float32, all weights checked by shape. Raises ModelError for another graph."""
    if importlib.util.find_spec("onnx") is None:
        raise ModelError(f"reading '{path.name}' needs the package onnx", "pip install 'keel-align[onnx]'")
    import onnx

    graph = onnx.load(str(path)).graph
    stored = named_weights(graph)
    tower = _empty_tower(path, stored)
    own = tower.state_dict()
    lacking = [name for name in own if _exported(name) not in stored and name != _NEVER_USED]
    wrong = [name for name in own if name not in lacking and name != _NEVER_USED and stored[_exported(name)].numel() != own[name].numel()]
    if lacking or wrong:
        raise ModelError(f"'{path.name}': no DINOv2 weights for {', '.join((lacking + wrong)[:3])} ({len(lacking + wrong)} in all)")
    tower.load_state_dict({name: stored[_exported(name)].reshape(t.shape) if name != _NEVER_USED else t for name, t in own.items()})
    return tower.eval()


def named_weights(graph: Any) -> dict[str, Tensor]:
    """The weights of an ONNX graph by the names that they had in PyTorch, without the prefix of the backbone.

    Exporters fold the transposition of a linear layer into its weight, which loses its name: it is that of the bias that is added to its
    product. The class token and the positions are joined before they are added to the patches: they are told by their order there.
    """
    from onnx import numpy_helper

    tensors = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    users: defaultdict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    found = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
    for node in graph.node:
        weights = [name for name in node.input if name in tensors] if node.op_type == "MatMul" else []
        for user in users[node.output[0]] if weights else []:
            for bias in user.input:
                if user.op_type == "Add" and bias.startswith(_PREFIX) and bias.endswith(".bias"):
                    found[bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"] = tensors[weights[0]].T.contiguous()
    unnamed = [t for name, t in tensors.items() if not name.startswith(_PREFIX) and t.dim() == 3 and t.shape[0] == 1]
    tables = {t.shape[1] > 1: t for t in unnamed}
    if "embeddings.position_embeddings" not in found and len(tables) == 2 and tables[False].shape[2] == tables[True].shape[2]:
        found["embeddings.position_embeddings"] = torch.cat([tables[False], tables[True]], 1)
    return found


def _empty_tower(path: Path, stored: dict[str, Tensor]) -> transformers.Dinov2Model:
    """The tower whose shapes the weights tell."""
    patches, positions = stored.get("embeddings.patch_embeddings.projection.weight"), stored.get("embeddings.position_embeddings")
    if patches is None or positions is None:
        raise ModelError(f"'{path.name}' is no DINOv2 that this reads", "give a folder or a Hub id of a vision tower")
    width, size = patches.shape[0], patches.shape[-1]
    layers = {int(m[1]) for name in stored if (m := re.match(r"encoder\.layer\.(\d+)\.", name))}
    config = transformers.Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // _HEAD_DIM,
        image_size=math.isqrt(positions.shape[1] - 1) * size,
        patch_size=size,
    )
    with torch.random.fork_rng(devices=[]):
        return transformers.Dinov2Model(config)


def _exported(name: str) -> str:
    """The name that a weight had when the file was made: newer versions of transformers call attention's parts otherwise."""
    longer = {"q": "query", "k": "key", "v": "value"}
    name = re.sub(r"attention\.([qkv])_proj\.", lambda m: f"attention.attention.{longer[m[1]]}.", name)
    return name.replace("attention.o_proj.", "attention.output.dense.")
