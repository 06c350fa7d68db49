"""What some architectures do between the head's product and the logits. One description serves the sampler and the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """``logits = softcap * tanh(scale * (hidden W^T + b) / softcap)``, then ``banned`` tokens leave the support (their logit is -inf).

    ``scale`` is Cohere's ``logit_scale`` or the inverse of Granite's ``logits_scaling``; ``softcap`` is Gemma's final soft cap.
    ``banned`` holds placeholders of images: tokens that must be neither sampled nor given probability.
    """

    scale: float = 1.0
    softcap: float | None = None
    banned: tuple[int, ...] = ()

    def apply_(self, raw_SV: Tensor) -> Tensor:
        """Transform raw float32 logits in place and return them. Not for autograd."""
        if self.scale != 1.0:
            raw_SV.mul_(self.scale)
        if self.softcap is not None:
            raw_SV.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.banned:
            raw_SV[:, list(self.banned)] = float("-inf")
        return raw_SV

    def __call__(self, raw_SV: Tensor) -> Tensor:
        """The same out of place, differentiable."""
        out = raw_SV if self.scale == 1.0 else raw_SV * self.scale
        if self.softcap is not None:
            out = torch.tanh(out / self.softcap) * self.softcap
        if self.banned:
            out = out.index_fill(1, torch.tensor(self.banned, device=out.device), float("-inf"))
        return out

    def backward_(self, grad_SV: Tensor, logits_SV: Tensor) -> Tensor:
        """Turn d loss / d logits into d loss / d raw, in place; ``logits_SV`` are the transformed ones. Banned columns must hold 0."""
        if self.softcap is not None:
            slope_SV = 1 - (logits_SV / self.softcap).square_()
            if self.banned:
                slope_SV[:, list(self.banned)] = 0.0
            grad_SV.mul_(slope_SV)
        if self.scale != 1.0:
            grad_SV.mul_(self.scale)
        return grad_SV


def discover(text_config: Any, banned: tuple[int, ...] = ()) -> LogitTransform:
    """Read the transform off a text config. Whether it is the whole truth is proven on the loaded model (``prove.py``)."""
    scale = 1.0
    if getattr(text_config, "logits_scaling", None):
        scale = 1.0 / float(text_config.logits_scaling)
    if getattr(text_config, "logit_scale", None):
        scale = float(text_config.logit_scale)
    softcap = getattr(text_config, "final_logit_softcapping", None)
    return LogitTransform(scale, None if softcap is None else float(softcap), banned)
