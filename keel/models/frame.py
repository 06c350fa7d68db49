"""A model without its weights, which get them part by part: while it is shared out over processes none of them ever holds it whole.

The parameters of a frame lie on torch's meta device. A ``Shelf`` says where their numbers are: in safetensors files, read as they are
needed, or, for what stands in no file as it is (new adapters, rows of new tokens), in the process that has the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from keel.core.errors import ModelError
from keel.kernels.narrow import tied
from keel.models.model import Model, stored_buffers

_MOST_REST = 0.25  # of the numbers; beyond it each process loads the model as this one did


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the weights of a frame are, by the module's names: a file of the model's folder and the name in it, or the numbers."""

    files: Mapping[str, tuple[str, str]]
    rest: Mapping[str, Tensor]


def shelf_of(model: Model, folder: Path | None) -> Shelf | None:
    """The shelf of a model that was just loaded from ``folder``; None where its files do not hold most of it number by number (single
    experts that the module keeps together, formats of other tools), or where it is no plain model."""
    if folder is None or model.members or model.start_rows or model.quantised or _odd(model):
        return None
    files: dict[str, tuple[str, str]] = {}
    rest: dict[str, Tensor] = {}
    stored = _stored(folder, model.module)
    for name, p in model.module.named_parameters():
        path, key, shape = stored.get(_plain(name), (None, "", ()))
        if path is not None and shape == tuple(p.shape):
            files[name] = path.name, key
        else:
            rest[name] = p.detach()
    total = sum(p.numel() for p in model.module.parameters())
    if sum(t.numel() for t in rest.values()) > _MOST_REST * total:
        return None
    return Shelf(files, {name: tensor.cpu().clone() for name, tensor in rest.items()})


def _odd(model: Model) -> bool:
    """Would a frame be another model? Buffers that files hold come with no shelf, code of the model's own is read another way, and a head
    that the config ties may be a table of its own in the files."""
    config, text = model.config, model.text_config
    ties = bool(getattr(config, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False))
    trusted = model.origin is None or model.origin.options.trust_remote_code
    return trusted or any(True for _ in stored_buffers(model.module)) or (ties and not tied(model.module))


def has_files(shelf: Shelf, folder: Path | None) -> bool:
    """Are all files of the shelf in ``folder``, which may be another machine's?"""
    return folder is not None and all((folder / name).is_file() for name, _ in shelf.files.values())


def empty_module(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """The module that ``make`` makes, its parameters without memory. Buffers, which are made from settings, are there."""
    with init_empty_weights(include_buffers=False):
        module = make()
    module.tie_weights()
    return module.eval()


def without_weights(module: nn.Module) -> bool:
    """Is some of its weights still to come?"""
    return any(p.is_meta for p in module.parameters())


class Filling:
    """Gives the parts of one frame their weights, in the precision and with the ties that they have there."""

    def __init__(self, module: nn.Module, shelf: Shelf, folder: Path, device: torch.device) -> None:
        self._shelf, self._folder, self._device = shelf, folder, device
        self._names = {id(p): (name, p) for name, p in module.named_parameters()}  # with the parameter: its id is nobody else's then
        times: dict[int, int] = {}
        for _, p in module.named_parameters(remove_duplicate=False):
            times[id(p)] = times.get(id(p), 0) + 1
        self._shared = {key for key, n in times.items() if n > 1}
        self._made: dict[int, nn.Parameter] = {}

    def fill(self, part: nn.Module) -> None:
        """Give ``part`` the weights that it lacks. Raises ModelError for one that is nowhere, or whose file has changed."""
        for owner in part.modules():
            for key, p in list(owner._parameters.items()):
                if p is None or not p.is_meta:
                    continue
                made = self._made[id(p)] if id(p) in self._made else self._make(p)
                if id(p) in self._shared:
                    self._made[id(p)] = made
                setattr(owner, key, made)

    def _make(self, p: nn.Parameter) -> nn.Parameter:
        name, _ = self._names[id(p)]
        found = self._read(name)
        if found.shape != p.shape:
            raise ModelError(f"{name} has the shape {tuple(found.shape)} and not {tuple(p.shape)} any more", "the files have changed")
        return nn.Parameter(found.to(device=self._device, dtype=p.dtype, copy=True), requires_grad=p.requires_grad)

    def _read(self, name: str) -> Tensor:
        if name in self._shelf.rest:
            return self._shelf.rest[name]
        if name not in self._shelf.files:
            raise ModelError(f"the weight {name} is nowhere", "start the run again: the files have changed")
        file_name, key = self._shelf.files[name]
        path = self._folder / file_name
        try:
            with cast(Any, safe_open)(path, framework="pt") as file:
                return file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read any more: {error}", "the same folder must be there on all machines") from error


def _plain(name: str) -> str:
    """A weight's name before adapters were put around it."""
    return name.replace(".base_layer.", ".")


def _stored(folder: Path, module: PreTrainedModel) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    """What the folder's safetensors files hold of ``module`` as it is: file, name there and shape, by the module's own name. What
    transformers puts together or takes apart when it reads is left out; nothing where a file cannot be read."""
    changes = get_model_conversion_mapping(module)
    renamings = [c for c in changes if isinstance(c, WeightRenaming)]
    converters = [c for c in changes if isinstance(c, WeightConverter)]
    own = {_plain(name): p for name, p in module.named_parameters()}
    found: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
    try:
        for path in _weight_files(folder):
            with cast(Any, safe_open)(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    name, converted = rename_source_key(key, renamings, converters, module.base_model_prefix, own)
                    if converted is None:
                        found[name] = path, key, tuple(file.get_slice(key).get_shape())
    except (SafetensorError, OSError, ValueError, LookupError, TypeError):
        return {}
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads. Raises OSError, ValueError, LookupError, TypeError where they are not to be had."""
    if (whole := folder / "model.safetensors").is_file():
        return [whole]
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]
