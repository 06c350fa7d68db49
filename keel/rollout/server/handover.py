"""The folder that trainer and engines see: at any time a saved model, which plain transformers, vLLM and SGLang load too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

NEWEST = "model.safetensors"


def hand_over(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put these weights in the place of those that lie there, as one file, which is there whole or not at all."""
    written = folder / f"{NEWEST}.new"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, written, {"format": "pt"})
    written.replace(folder / NEWEST)
    for old in (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")):
        if old.name != NEWEST:
            old.unlink()
