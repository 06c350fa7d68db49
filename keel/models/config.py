"""Settings of how a model is loaded and adapted. The model itself is a plain string in a recipe (``model: org/name``). And of a
reward model's head."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section

Pooling = Literal["last", "mean", "attention", "last_mean"]  # which hidden states a reward model's score is read from


class FeaturesConfig(Section):
    """Where features of images are kept while the parts that make them are not trained."""

    memory_gib: float = Field(
        default=1.0, ge=0, description="Memory for them, in GiB; when it is full, what was not asked for the longest goes. 0 = none."
    )
    folder: str = Field(
        default="",
        description="Folder where they are kept too, by content, also for other runs; empty = they are kept in memory alone. With more "
        "images than memory holds, a pass finds none of the last one's in memory: name a folder.",
    )
    pixels_gib: float = Field(
        default=2.0,
        gt=0,
        description="Memory for the images' pixels as the processor leaves them, in GiB; beyond it images are read and processed again.",
    )


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
    quantise: Literal["none", "int8", "int8_dynamic"] = Field(
        default="none",
        description="Keep the decoder's matrices of a model that is only read in 8 bits: int8 = a scale a row, a quarter of the memory; "
        "int8_dynamic = what is multiplied is rounded too. It cannot be trained.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute layers in the backward pass: less memory, about a third more time."
    )
    train: tuple[Literal["language", "projector", "vision"], ...] = Field(
        default=(),
        description="Parts of a vision-language model that are trained, e.g. [language]; empty = all of it. With lora: the parts that are "
        "trained in full beside the adapters, e.g. [projector]; empty = none.",
    )
    features: FeaturesConfig = Field(
        default=FeaturesConfig(), description="Where the features of images are kept that a frozen vision tower makes."
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
    parts: tuple[Literal["language", "projector", "vision"], ...] = Field(
        default=(),
        description="Parts of a vision-language model that are adapted, e.g. [language, vision]: all their linear layers but the head, or "
        "those that `targets` names. Empty: the decoder, or wherever `targets` match.",
    )

    @model_validator(mode="after")
    def _layers_are_read(self) -> LoraConfig:
        if self.layers is not None and self.parts and "language" not in self.parts:
            raise ValueError("lora.layers counts layers of the decoder, and lora.parts does not name language: leave layers out")
        return self


class HeadConfig(Section):
    """What stands on top of the body of a reward model. The default is a linear map of the last real token's state to one number, which
    plain transformers loads as a sequence classifier."""

    trunk: Literal["linear", "mlp"] = Field(
        default="linear", description="From the pooled state to the score: linear, or one hidden layer."
    )
    width: int = Field(default=0, ge=0, description="Width of the MLP's hidden layer; 0 = the model's own.")
    pooling: Pooling = Field(
        default="last",
        description="What is read of an answer: its last real token, the mean of its tokens, attention over them, or a learnt mix "
        "of the first two.",
    )
    norm: Literal["none", "layer"] = Field(default="none", description="Layer normalisation of the pooled state.")
    bound: Literal["none", "tanh"] = Field(default="none", description="tanh keeps scores in [-1, 1].")
    output: Literal["auto", "point", "gaussian", "ordinal", "distribution"] = Field(
        default="auto",
        description="A number; a mean with its own variance; a place among ordered levels; the chance of each level. auto: ordinal for "
        "ratings in whole steps (up to 11), else a number.",
    )
    dimensions: list[str] = Field(default=[], description="Named scores of ratings that are learnt; empty = all that the data have.")
    weights: dict[str, float] = Field(default={}, description="Weights of the dimensions in the one score; empty = equal shares.")
    members: int = Field(default=1, ge=1, le=64, description="Heads on one trunk: an ensemble that tells how unsure it is.")
    bootstrap: bool = Field(default=True, description="Each member sees its own draw of the prompts (only with several members).")

    @model_validator(mode="after")
    def _fit_together(self) -> HeadConfig:
        if self.width and self.trunk == "linear":
            raise ValueError("head.width would have no effect: trunk is linear")
        if self.bound != "none" and self.output not in ("auto", "point"):
            raise ValueError(f"head.bound={self.bound} bounds a plain number: use output=point")
        if self.weights and self.dimensions and set(self.weights) != set(self.dimensions):
            raise ValueError(f"head.weights names {', '.join(self.weights)}, head.dimensions {', '.join(self.dimensions)}")
        if self.weights and not any(self.weights.values()):
            raise ValueError("head.weights are all 0: there would be no score")
        return self
