"""Low-rank adapters through PEFT: where they go, and merging them exactly (in float32).

A merged adapter often changes a weight by less than half of the distance between two bfloat16 numbers. The nearest such number is then the
weight before training, and that part of what was learnt is gone as soon as the model is read in bfloat16. So a merged weight is rounded up
or down by chance, right on average (Gupta et al. 2015, https://arxiv.org/abs/1502.02551, round by chance for the same reason)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from keel.core.errors import ModelError
from keel.core.hashing import stable_hash
from keel.kernels.decode_products import Adapter, LinearUnit
from keel.kernels.narrow import input_table, output_layer, tied
from keel.models.config import LoraConfig
from keel.models.parts import belonging
from keel.models.read_errors import quiet
from keel.models.start_rows import StartRows

log = logging.getLogger("keel")
ADAPTER = "default"


def add_lora(module: PreTrainedModel, config: LoraConfig, seed: int, new_tokens: list[int]) -> tuple[peft.PeftModel, list[StartRows]]:
    """Inject adapters into ``module`` in place, freeze the rest; return PEFT's wrapper around it and what is trained beside adapters.

    ``new_tokens`` are embedding rows that were just added: they are trained and saved with the adapter.
    Raises ModelError when nothing matches, or when the output head is tied to the input embedding and asked for.
    """
    names = target_names(module, config)
    transposed = all(isinstance(module.get_submodule(name), Conv1D) for name in names)  # GPT-2 keeps its weights the other way round
    settings: dict[str, Any] = {
        "fan_in_fan_out": transposed,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
    }
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            wrapped = peft.get_peft_model(module, peft.LoraConfig(target_modules=names, **settings), adapter_name=ADAPTER)
        except ValueError as error:
            raise ModelError(f"PEFT cannot adapt this model: {error}", "name other modules with lora.targets") from None
    set_lora_dropout(module, False)  # PEFT's new layers have it on
    started = _train_rows(module, new_tokens) if new_tokens else []
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    log.info("LoRA: %d modules adapted, %d of %d parameters are trained", len(names), trained, sum(p.numel() for p in module.parameters()))
    return cast(peft.PeftModel, wrapped), started


def _train_rows(module: PreTrainedModel, rows: list[int]) -> list[StartRows]:
    """Train these rows of the embedding and of the head: the gradient of all other rows is zero, so no optimizer moves them."""
    started: list[StartRows] = []
    for weight in {id(w): w for w in (input_table(module), output_layer(module).weight)}.values():
        mask_V1 = torch.zeros(weight.shape[0], 1, device=weight.device)
        mask_V1[rows] = 1.0
        weight.requires_grad_(True)
        weight.register_hook(lambda grad_VH, mask_V1=mask_V1: grad_VH * mask_V1)
        rows_K = torch.tensor(rows, device=weight.device)
        started.append(StartRows(cast(nn.Parameter, weight), rows_K, weight.detach()[rows_K].clone()))
    return started


def target_names(module: PreTrainedModel, config: LoraConfig) -> list[str]:
    """Full names of the modules to adapt. Default: every linear inside the text decoder's layers (GPT-2's are called Conv1D); of the parts
    that the settings name, every linear."""
    linears = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    layer_of = _decoder_layers(module, linears)
    if config.targets is None:
        chosen = [name for name, m in linears.items() if name in layer_of or (config.parts and _adaptable(module, m))]
    elif isinstance(config.targets, str):
        try:
            chosen = [name for name in linears if re.fullmatch(config.targets, name)]
        except re.error as error:
            raise ModelError(f"lora.targets={config.targets!r} is no regular expression: {error}", "or give a list of names") from None
    else:
        chosen = [name for name in linears if any(name == t or name.endswith("." + t) for t in config.targets)]
    if config.parts:
        chosen = _of_parts(module, config, chosen)
    if config.layers is not None:
        first = max(layer_of.values(), default=-1) + 1 - config.layers
        beside = {n for part in config.parts if part != "language" for n in belonging(module, (part,), "lora.parts")}
        chosen = [name for name in chosen if layer_of.get(name, -1) >= first or f"{name}.weight" in beside]
    if not chosen:
        endings = sorted({name.rsplit(".", 1)[-1] for name in linears})
        asked = "the default LoRA targets match" if config.targets is None else f"lora.targets={config.targets!r} matches"
        raise ModelError(f"{asked} no linear module of this model", "linear modules end in: " + ", ".join(endings))
    head = output_layer(module)
    if any(linears[name] is head for name in chosen) and tied(module):
        raise ModelError(
            "LoRA on an output head that is tied to the input embedding cannot be merged: the embedding would change too",
            "leave the head out of the LoRA targets",
        )
    return chosen


def _decoder_layers(module: PreTrainedModel, names: Iterable[str]) -> dict[str, int]:
    """The layer of each of the modules that lie in a layer of the text decoder."""
    decoder = module.get_decoder()
    prefix = next(name for name, m in module.named_modules() if m is decoder)
    inside = re.compile(re.escape(prefix + "." if prefix else "") + r"(layers|h|blocks)\.(\d+)\.")
    return {name: int(found.group(2)) for name in names if (found := inside.match(name))}


def _adaptable(module: PreTrainedModel, linear: nn.Module) -> bool:
    """Neither the head nor a layer whose weight torch's own attention takes past its forward."""
    return linear is not output_layer(module) and not isinstance(linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


def _of_parts(module: PreTrainedModel, config: LoraConfig, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that lie in ``config.parts``. Raises ModelError for a part in which none does."""
    of_part = {part: belonging(module, (part,), "lora.parts") for part in config.parts}
    for part, weights in of_part.items():
        if not any(f"{name}.weight" in weights for name in names):
            what = "" if config.targets is None else f" that lora.targets={config.targets!r} matches"
            raise ModelError(f"lora.parts names '{part}', which has no linear module{what}", "leave it out, or name other targets")
    return [name for name in names if any(f"{name}.weight" in weights for weights in of_part.values())]


def merged_state(module: PreTrainedModel, compute_dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The state dict of ``module`` with its adapters merged, under the names the module has without them, all float32.

    Merges are made in float32. What was trained beside a bfloat16 base gets numbers that bfloat16 holds, right on average: read in either
    precision it is then one and the same model, and reading it in bfloat16 takes nothing of the training away.
    """
    deltas = {
        name: cast(Any, m).get_delta_weight(ADAPTER)
        for name, m in module.named_modules()
        if isinstance(m, LoraLayer) and ADAPTER in m.lora_A
    }
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if ".lora_" in name:
            continue
        owner = name.removesuffix(".base_layer.weight")
        value = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        if owner != name and owner in deltas:
            value = value + deltas[owner].detach().float()
            if compute_dtype == torch.bfloat16:
                value = round_unbiased(value, stable_hash(owner))
        state[name.replace(".base_layer.", ".")] = value
    return state


def set_lora_dropout(module: PreTrainedModel, on: bool) -> None:
    """Switch the adapters' dropout; everything else of the model stays in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            for dropout in layer.lora_dropout.values():
                dropout.train(on)


_STEP_BITS = 16  # of a float32's bits, those that bfloat16 lacks


def round_unbiased(value: Tensor, seed: int) -> Tensor:
    """``value`` (float32, any shape) on the grid of bfloat16, as float32. Between two neighbours the farther one is taken with the
    probability that makes the mean exact; what lies on the grid stays. ``seed`` decides the draws."""
    assert value.dtype == torch.float32, value.dtype
    generator = torch.Generator().manual_seed(seed)
    chance = torch.randint(1 << _STEP_BITS, value.shape, generator=generator, dtype=torch.int32).to(value.device)
    bits = value.contiguous().view(torch.int32)
    rounded = (bits + chance).bitwise_and_(~((1 << _STEP_BITS) - 1)).view(torch.float32)
    return torch.where(rounded.isfinite(), rounded, value)


def linear_units(module: nn.Module) -> list[LinearUnit]:
    """The linear layers of ``module`` as they compute now, adapters included where these are plain ones. What hooks have replaced is left
    out."""
    units: list[LinearUnit] = []
    inside: set[int] = set()  # parts of a unit
    for layer in module.modules():
        if id(layer) in inside or "forward" in layer.__dict__:
            continue
        if isinstance(layer, LoraLayer) and (adapters := _plain_adapters(layer)) is not None:
            base = cast(nn.Linear, layer.base_layer)
            units.append(LinearUnit(layer, base.weight, base.bias, adapters))
            inside |= {id(part) for part in layer.modules()}
        elif isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:  # not one of packed numbers
            units.append(LinearUnit(layer, layer.weight, layer.bias))
    return units


def _plain_adapters(layer: LoraLayer) -> tuple[Adapter, ...] | None:
    """The adapters that are on, or None for a layer that does more than add them to a linear one."""
    plain = type(layer) is peft.tuners.lora.Linear and type(layer.base_layer) is nn.Linear and not layer.fan_in_fan_out
    if not plain or layer.disable_adapters or layer.merged:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if any(name in layer.lora_variant or layer.lora_bias.get(name) for name in names):
        return None
    if any(isinstance(layer.lora_dropout[name], nn.Dropout) and layer.lora_dropout[name].training for name in names):
        return None
    parts = [(cast(nn.Linear, layer.lora_A[name]), cast(nn.Linear, layer.lora_B[name]), layer.scaling[name]) for name in names]
    return tuple(Adapter(down.weight, up.weight, scale) for down, up, scale in parts)
