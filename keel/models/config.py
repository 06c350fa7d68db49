"""Settings of how a model is loaded and adapted. The model itself is a plain string in a recipe (``model: org/name``)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.config import Section


class ModelOptions(Section):
    """How a model is read and computed."""

    revision: str | None = Field(
        default=None, description="Hub revision (commit, tag or branch) to read; the commit found is recorded in the manifest."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the model. Off unless you have read that code."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Compute precision. auto = bf16 where the processor computes it in hardware, else fp32; or what the variable "
        "KEEL_AUTO_PRECISION of the environment says. Trained weights stay fp32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the model lives. auto = cuda when there is one.")
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute layers in the backward pass: less memory, about a third more time."
    )
    train: tuple[Literal["language", "projector", "vision"], ...] = Field(
        default=(), description="Parts of a vision-language model that full fine-tuning trains, e.g. [language]; empty = all of it."
    )
    router_aux_loss: float = Field(
        default=0.0,
        ge=0,
        description="Coefficient of a mixture of experts' load-balancing loss; 0 = it is only reported (aux_loss).",
    )
    fast_path: Literal["auto", "off"] = Field(
        default="auto",
        description="auto = packed rows with shared prompts when they prove equal to the model's own attention; off = padded rows.",
    )


class LoraConfig(Section):
    """Low-rank adapters in place of training all weights (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    r: int = Field(default=16, ge=1, description="Rank of the update.")
    alpha: float = Field(default=32.0, gt=0, description="The update is scaled by alpha / r (alpha / sqrt(r) with rslora).")
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Dropout in front of the adapters while training demonstrations or a reward model; RL and preference losses refuse it.",
    )
    rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(r), which keeps large ranks stable (https://arxiv.org/abs/2312.03732)."
    )
    targets: str | tuple[str, ...] | None = Field(
        default=None,
        description="Modules to adapt: a regular expression on full names, or name endings. Default: all decoder linears but the head.",
    )
    layers: int | None = Field(default=None, ge=1, description="Adapt only the last this many decoder layers. Default: all.")
