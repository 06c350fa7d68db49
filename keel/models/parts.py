"""Which part of a vision-language model a weight belongs to, and training some parts only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedModel

from keel.core.errors import ModelError
from keel.kernels.narrow import output_layer

Part = Literal["language", "projector", "vision"]


def parts_of(module: PreTrainedModel) -> dict[str, Part]:
    """The part of every parameter, by its name: the decoder with its tables is ``language``, encoders of images are ``vision`` (what they
    project with inside, as Qwen's mergers, too), the rest is ``projector``. All of a text model is ``language``."""
    language = module.get_decoder()
    encoders = [
        inner
        for inner in module.modules()
        if isinstance(inner, PreTrainedModel) and not any(m is language for m in inner.modules()) and not _inside(language, inner)
    ]
    where: dict[int, Part] = {id(p): "vision" for encoder in encoders for p in encoder.parameters()}
    where |= {id(p): "language" for layer in (language, output_layer(module)) for p in layer.parameters()}
    return {name: where.get(id(p), "projector") for name, p in module.named_parameters()}


def train_only(module: PreTrainedModel, parts: Sequence[Part]) -> None:
    """Freeze what is in none of ``parts``. Raises ModelError for a part that the model does not have."""
    found = parts_of(module)
    for part in parts:
        if part not in found.values():
            there = ", ".join(sorted(set(found.values())))
            what = f"model_options.train names '{part}'; a model of type '{module.config.model_type}' has: {there}"
            raise ModelError(what, "name one of these")
    for name, p in module.named_parameters():
        p.requires_grad_(p.requires_grad and found[name] in parts)


def _inside(outer: PreTrainedModel, inner: PreTrainedModel) -> bool:
    return any(m is inner for m in outer.modules())
