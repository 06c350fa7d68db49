"""Which part of a vision-language model a weight belongs to, and training some parts only, or in full beside adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import nn
from transformers import PreTrainedModel

from keel.core.errors import ModelError
from keel.kernels.narrow import output_layer
from keel.models.lora import StartRows

if TYPE_CHECKING:
    from keel.models.model import Model

Part = Literal["language", "projector", "vision"]
_MERGERS = {"merger", "deepstack_merger_list"}


def parts_of(module: PreTrainedModel) -> dict[str, Part]:
    """The part of every parameter, by its name: the decoder with its tables is ``language``, encoders of images are ``vision``, the rest is
    ``projector``, and so are the mergers that some encoders (Qwen's) end with. All of a text model is ``language``."""
    language = module.get_decoder()
    where: dict[int, Part] = {id(p): "vision" for encoder in encoders_of(module) for p in encoder.parameters()}
    where |= {id(p): "language" for layer in (language, output_layer(module)) for p in layer.parameters()}
    found: dict[str, Part] = {name: where.get(id(p), "projector") for name, p in module.named_parameters()}
    mergers: dict[str, Part] = {name: "projector" for name, part in found.items() if part == "vision" and _MERGERS & set(name.split("."))}
    return found | mergers


def encoders_of(module: PreTrainedModel) -> list[PreTrainedModel]:
    """The encoders of images: models of their own inside ``module``, beside its decoder; the outermost ones."""
    language = module.get_decoder()
    found: list[PreTrainedModel] = []
    for inner in module.modules():  # outer ones come first
        if not isinstance(inner, PreTrainedModel) or any(m is language for m in inner.modules()) or _inside(language, inner):
            continue
        if not any(_inside(outer, inner) for outer in found):
            found.append(inner)
    return found


def train_only(module: PreTrainedModel, parts: Sequence[Part]) -> None:
    """Freeze what is in none of ``parts``. Raises ModelError for a part that the model does not have."""
    found = _named_parts(module, parts)
    for name, p in module.named_parameters():
        p.requires_grad_(p.requires_grad and found[name] in parts)


def train_beside(module: PreTrainedModel, parts: Sequence[Part]) -> list[StartRows]:
    """Train ``parts`` in full beside adapters, which are in place already; returns them as they are before training. Raises ModelError for
    a part that the model does not have or that is adapted."""
    found = _named_parts(module, parts)
    adapted = {found[name] for name, _ in module.named_parameters() if ".lora_" in name}
    if both := sorted(adapted & set(parts)):
        raise ModelError(
            f"model_options.train names '{both[0]}', which adapters train already", "leave it out, or give the adapters other lora.targets"
        )
    whole = [p for name, p in module.named_parameters() if found[name] in parts]
    for p in whole:
        p.requires_grad_(True)
    return [StartRows(p, ..., p.detach().clone()) for p in whole]


def trained_parts(model: Model) -> dict[str, list[nn.Parameter]]:
    """The trained parameters by part, heads beside the model's own left out. Empty for a text model, or where one part alone is trained:
    there is nothing to compare."""
    part_of = parts_of(model.module)
    found: dict[str, list[nn.Parameter]] = {}
    for name, p in model.trainable():
        if name in part_of:
            found.setdefault(part_of[name], []).append(p)
    return found if len(found) > 1 else {}


def _named_parts(module: PreTrainedModel, parts: Sequence[Part]) -> dict[str, Part]:
    """``parts_of``, when all that are named are there."""
    found = parts_of(module)
    for part in parts:
        if part not in found.values():
            there = ", ".join(sorted(set(found.values())))
            what = f"model_options.train names '{part}'; a model of type '{module.config.model_type}' has: {there}"
            raise ModelError(what, "name one of these")
    return found


def _inside(outer: PreTrainedModel, inner: PreTrainedModel) -> bool:
    return any(m is inner for m in outer.modules())
