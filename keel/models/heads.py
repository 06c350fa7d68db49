"""Scalar heads on top of the body's hidden states: the score of a reward model and the value of a critic."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

HeadName = Literal["score", "value"]
FILE = "keel_heads.safetensors"  # beside the model, for heads that the saved architecture has no place for


def make_head(name: HeadName, hidden: int, seed: int) -> nn.Linear:
    """A float32 head. The score starts at N(0, 1/(hidden+1)) without bias (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325, C.1);
    the value starts at 0, so that the first advantages are the returns."""
    head = nn.Linear(hidden, 1, bias=name == "value")
    with torch.no_grad():
        if name == "score":
            generator = torch.Generator().manual_seed(seed)
            head.weight.copy_(torch.randn(1, hidden, generator=generator) / (hidden + 1) ** 0.5)
        else:
            head.weight.zero_()
            head.bias.zero_()
    return head


def save_heads(folder: Path, heads: dict[str, nn.Linear]) -> None:
    """Write heads as ``<name>_head.weight`` (and ``.bias``) beside a model."""
    tensors = {
        f"{name}_head.{k}": v.detach().float().cpu().contiguous() for name, head in heads.items() for k, v in head.state_dict().items()
    }
    if tensors:
        save_file(tensors, folder / FILE, metadata={"format": "pt"})


def load_heads(folder: Path, heads: dict[str, nn.Linear]) -> list[str]:
    """Fill heads from a folder: from the heads file, or the score from a sequence classifier's ``score.weight``. Returns those found."""
    found: list[str] = []
    for name, head in heads.items():
        tensors = {k: _find(folder, [f"{name}_head.{k}"] + ([f"score.{k}"] if name == "score" else [])) for k in head.state_dict()}
        present = {k: v for k, v in tensors.items() if v is not None and v.shape == head.state_dict()[k].shape}
        if len(present) == len(tensors):
            head.load_state_dict(present)
            found.append(name)
    return found


def _find(folder: Path, names: Iterable[str]) -> Tensor | None:
    wanted = list(names)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in wanted:
                if name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    return file.get_tensor(name)
    return None
