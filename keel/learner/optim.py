"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers.optimization import Adafactor

from keel.core.errors import ConfigError
from keel.learner.config import OptimConfig
from keel.models.model import Model


def learning_rate(step: int, total_steps: int, config: OptimConfig, peak: float) -> float:
    """The rate of planned step ``step`` (0-based): linear warm-up that reaches ``peak`` after its last step, then the schedule, which ends
    at ``peak * min_lr_ratio`` after the last step of all."""
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    shape = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[config.schedule]
    return peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * shape)


def warmup_steps(config: OptimConfig, total_steps: int) -> int:
    """Steps of warm-up in a training of ``total_steps``."""
    return config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * total_steps)


def factor_of(config: OptimConfig, model: Model) -> float:
    """What the recipe's rates are multiplied by: adapters want more."""
    return config.lora_lr_factor if model.peft_model is not None else 1.0


def rate_now(lr_now: float | None, progress: int, total_steps: int, config: OptimConfig, factor: float) -> float:
    """The rate of the next step: ``lr_now``, or where that is None the schedule's at planned step ``progress``."""
    return factor * lr_now if lr_now is not None else learning_rate(progress, total_steps, config, factor * config.lr)


TIE = "score_head.tie"  # the log of a tie's weight, of each member
PACE = 30.0  # one number that has to move by 1, where weights move by hundredths: steps of one length would leave it where it starts


def decay_groups(
    named: Sequence[tuple[str, nn.Parameter]], embeddings: Set[int], weight_decay: float, paces: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups: matrices with decay; vectors (norms, biases) and embeddings (by ``id``) without. Each goes at ``pace`` times the
    rate: 1, or what ``paces`` says by name; the weight of a tie at ``PACE`` times that."""
    groups: dict[tuple[bool, float, bool], dict[str, Any]] = {}
    for name, p in named:
        decays = p.dim() >= 2 and id(p) not in embeddings and name != TIE
        pace = (paces or {}).get(name, 1.0) * (PACE if name == TIE else 1.0)
        group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "pace": pace}
        groups.setdefault((decays, pace, hasattr(p, "device_mesh")), group)["params"].append(p)  # what is shared out is updated by itself
    return [groups[key] for key in sorted(groups, key=lambda key: (key[1] != 1.0, key[1], not key[0], key[2]))]


def make_optimizer(
    named: Sequence[tuple[str, nn.Parameter]], embeddings: Set[int], config: OptimConfig, paces: Mapping[str, float] | None = None
) -> Optimizer:
    """The optimizer over trained parameters; ``paces`` as in ``decay_groups``. Adafactor (Shazeer & Stern 2018,
    https://arxiv.org/abs/1804.04235) runs with the given rate alone: neither scaled by the parameters nor falling by itself. Raises
    ConfigError when the 8-bit one is asked for and cannot be had."""
    groups = decay_groups(named, embeddings, config.weight_decay, paces)
    if config.name == "adafactor":
        # torch's own multiplies the rate by the parameter's size, about 0.02: at the rate of other optimizers it would stand still
        return Adafactor(groups, lr=config.lr, scale_parameter=False, relative_step=False)
    if config.name == "adamw_8bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                "optim.name=adamw_8bit needs the package bitsandbytes", "pip install 'keel-align[optim8bit]', or set optim.name=adamw"
            )
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

        return AdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
