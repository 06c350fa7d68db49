"""Which part of a vision-language model a weight belongs to, and training some parts only, or in full beside adapters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import nn
from transformers import PreTrainedModel

from keel.core.errors import ModelError
from keel.kernels.narrow import output_layer
from keel.models.start_rows import StartRows

if TYPE_CHECKING:
    from keel.models.model import Model

Part = Literal["language", "projector", "vision"]
_MERGERS = {"merger", "deepstack_merger_list"}
_LAYER = re.compile(r"(.*?)\.(\d+)\.")  # the first number in a name is its layer's
_LAST = re.compile(r"(\w+):last([1-9]\d*)")


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


def belonging(module: PreTrainedModel, names: Sequence[str], setting: str) -> frozenset[str]:
    """Names of the parameters of ``names``: parts, or their last layers (``vision:last2``: the last two layers that are read of it).
    ``setting`` is what a message calls the place that names them. Raises ModelError for what the model does not have."""
    found = parts_of(module)
    chosen: set[str] = set()
    for name in names:
        last = _LAST.fullmatch(name)
        part = last.group(1) if last else name
        if part not in found.values():
            there = ", ".join(sorted(set(found.values())))
            what = f"{setting} names '{name}'; a model of type '{module.config.model_type}' has: {there}"
            raise ModelError(what, "name one of these, or the last layers of one: 'vision:last2'")
        of_part = [key for key, owner in found.items() if owner == part]
        chosen |= set(of_part if last is None else _last_layers(module, part, of_part, int(last.group(2)), f"{setting}: '{name}'"))
    return frozenset(chosen)


def _last_layers(module: PreTrainedModel, part: str, names: Sequence[str], n: int, asked: str) -> list[str]:
    """Those of ``names`` in the last ``n`` layers of the part's deepest stack."""
    layer_of = {name: (at.group(1), int(at.group(2))) for name in names if (at := _LAYER.match(name))}
    depth = Counter(stack for stack, _ in set(layer_of.values()))
    if not depth:
        raise ModelError(f"{asked}: this part of a '{module.config.model_type}' model has no layers", "name the part itself")
    stack, layers = depth.most_common(1)[0]
    end = layers - (_unread(module) if part == "vision" else 0)
    if n > end:
        raise ModelError(f"{asked}, and there are {end} layers that are read", "name fewer, or the part itself")
    return [name for name, (its, layer) in layer_of.items() if its == stack and end - n <= layer < end]


def _unread(module: PreTrainedModel) -> int:
    """How many layers at the end of the tower nothing reads: LLaVA takes the features of the layer before the last one."""
    level = getattr(module.config, "vision_feature_layer", None)
    levels = [level] if isinstance(level, int) else list(level or [-1])
    return max(0, -1 - max(levels)) if all(x < 0 for x in levels) else 0


def train_only(module: PreTrainedModel, parts: Sequence[Part]) -> None:
    """Freeze what is in none of ``parts``. Raises ModelError for a part that the model does not have."""
    kept = belonging(module, parts, "model_options.train")
    for name, p in module.named_parameters():
        p.requires_grad_(p.requires_grad and name in kept)


def train_beside(module: PreTrainedModel, parts: Sequence[Part]) -> list[StartRows]:
    """Train ``parts`` in full beside adapters, which are in place already; returns them as they are before training. Raises ModelError for
    a part that the model does not have or that is adapted."""
    kept, found = belonging(module, parts, "model_options.train"), parts_of(module)
    adapted = {found[name] for name, _ in module.named_parameters() if ".lora_" in name}
    if both := sorted(adapted & set(parts)):
        raise ModelError(
            f"model_options.train names '{both[0]}', which adapters train already",
            "leave it out, or give the adapters other lora.parts or lora.targets",
        )
    whole = [p for name, p in module.named_parameters() if name in kept]
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


def _inside(outer: PreTrainedModel, inner: PreTrainedModel) -> bool:
    return any(m is inner for m in outer.modules())
