"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers.optimization import Adafactor

from keel.core.errors import ConfigError
from keel.learner.config import OptimConfig


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


TIE = "score_head.tie"  # the log of a tie's weight, of each member
PACE = 30.0  # one number that has to move by 1, where weights move by hundredths: steps of one length would leave it where it starts


def decay_groups(
    named: Sequence[tuple[str, nn.Parameter]], embeddings: Set[int], weight_decay: float, whole: Set[int] = frozenset(), pace: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups: matrices with decay; vectors (norms, biases) and embeddings (by ``id``) without; the weight of a tie, which goes
    at ``PACE`` times the rate; those that are trained ``whole`` (by ``id``) beside adapters at ``pace`` times the rate."""
    beside = decay_groups([(name, p) for name, p in named if id(p) in whole], embeddings, weight_decay) if whole else []
    named = [(name, p) for name, p in named if id(p) not in whole]
    paced = [p for name, p in named if name == TIE]
    named = [(name, p) for name, p in named if name != TIE]
    decayed = [p for _, p in named if p.dim() >= 2 and id(p) not in embeddings]
    plain = [p for _, p in named if p.dim() < 2 or id(p) in embeddings]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups.append({"params": paced, "weight_decay": 0.0, "pace": PACE})
    return [g for g in groups if g["params"]] + [g | {"pace": pace} for g in beside]


def make_optimizer(
    named: Sequence[tuple[str, nn.Parameter]], embeddings: Set[int], config: OptimConfig, whole: Set[int] = frozenset()
) -> Optimizer:
    """The optimizer over trained parameters; those in ``whole`` (by ``id``) stand beside adapters and get the rate without
    ``lora_lr_factor``. Adafactor (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235) runs with the given rate
    alone: neither scaled by the parameters nor falling by itself. Raises ConfigError when the 8-bit one is asked for and cannot be had."""
    groups = decay_groups(named, embeddings, config.weight_decay, whole, 1 / config.lora_lr_factor)
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
