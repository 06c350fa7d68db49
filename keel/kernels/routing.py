"""Mixture-of-experts models: how evenly their routers use the experts, as a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from keel.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Router:
    """The routers of a model: ``top_k`` of ``n_experts`` see a token. The balance loss counts ``coefficient`` times; 0: only reported."""

    n_experts: int
    top_k: int
    coefficient: float


def router_of(module: PreTrainedModel, coefficient: float) -> Router | None:
    """What is known of the model's routers; None for a dense model. Raises ModelError where a dense one is asked to balance them."""
    config: Any = module.config.get_text_config()
    counts = (getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    n_experts = next((n for n in counts if isinstance(n, int) and n > 1), None)
    decoder: Any = module.get_decoder()
    if n_experts is None or "router_logits" not in (getattr(decoder, "_can_record_outputs", None) or {}):
        if coefficient > 0:
            raise ModelError(
                f"model_options.router_aux_loss is {coefficient}, but a model of type '{module.config.model_type}' shows no routers",
                "leave it out",
            )
        return None
    return Router(n_experts, int(config.num_experts_per_tok), coefficient)


def balance_loss(logits: Sequence[Tensor], top_k: int) -> Tensor:
    """The load-balancing loss of Fedus et al. 2021 (arXiv:2101.03961, equations 4-6), for ``top_k`` experts a token.

    ``logits`` are the routers' [tokens, experts], one tensor a layer; the layers' tokens are counted together, as transformers does.
    E * sum over experts of (share of the choices that fell on it, times top_k) * (mean probability of it): ``top_k`` when all experts
    are used alike, up to E when the same ones take every token. The gradient is that of the probabilities alone. Returns a float32 scalar.
    """
    all_NE = torch.cat([layer.float() for layer in logits])
    probabilities_NE = all_NE.softmax(-1)
    chosen_NK = probabilities_NE.topk(top_k, dim=-1).indices
    share_E = torch.zeros_like(probabilities_NE).scatter_(1, chosen_NK, 1.0).mean(0)
    return all_NE.shape[1] * (share_E * probabilities_NE.mean(0)).sum()
