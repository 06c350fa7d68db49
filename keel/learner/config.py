"""Settings of the optimizer and of how an optimizer batch is cut into micro-batches."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section


class OptimConfig(Section):
    """Optimizer, learning rate and its schedule, clipping."""

    name: Literal["adamw", "adafactor", "adamw_8bit"] = Field(
        default="adamw",
        description="adamw; adafactor (one number a row and a column in place of two a weight); adamw_8bit (needs bitsandbytes and a GPU).",
    )
    lr: float = Field(default=1e-5, gt=0, description="Peak learning rate of a full fine-tuning.")
    lora_lr_factor: float = Field(
        default=10.0,
        gt=0,
        description="With LoRA the learning rate is lr times this: adapters want about 10x. Parts trained in full beside them have lr.",
    )
    lr_parts: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={},
        description="Peak rates of parts of the model, in place of lr (and of lora_lr_factor, for their adapters), on the same schedule: "
        "{projector: 2e-5, vision: 1e-6}. A rate that a phase sets in place of lr changes these in proportion.",
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Decay rates of Adam's two moments; adafactor has none.")
    eps: float = Field(default=1e-8, gt=0, description="Added to Adam's denominator; adafactor has none.")
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled decay of weight matrices; norms, biases and embeddings have none."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, le=1, description="Share of all steps in which the learning rate rises linearly from 0."
    )
    warmup_steps: int | None = Field(default=None, ge=0, description="Steps of warm-up; replaces warmup_ratio when given.")
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1, description="The schedule ends at lr times this.")
    clip_norm: float | None = Field(default=1.0, gt=0, description="Gradients are scaled down to this global norm; null = no clipping.")

    @field_validator("lr_parts")
    @classmethod
    def _whole_parts(cls, value: dict[str, float]) -> dict[str, float]:
        if layers := [name for name in value if ":" in name]:
            raise ValueError(f"'{layers[0]}' names layers; only whole parts have rates of their own")
        return value

    @field_validator("betas")
    @classmethod
    def _betas_decay(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0.0 <= beta < 1.0 for beta in value):
            raise ValueError(f"decay rates are at least 0 and below 1, not {value}")
        return value

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        unread = [name for name in ("betas", "eps") if name in self.changed]
        if unread and self.name == "adafactor":
            raise ValueError(f"optim.name=adafactor does not read {' and '.join(unread)}: leave {'them' if unread[1:] else 'it'} out")
        return self


class BatchConfig(Section):
    """How many tokens go through the model at once. Results do not depend on it, memory does."""

    microbatch_tokens: int = Field(
        default=2048,
        ge=1,
        description="Tokens of a forward and backward pass, shared prompts counted once. Fewer take less memory, and on a CPU no more "
        "time; a GPU is busier with more.",
    )
    inference_tokens: int = Field(
        default=16384, ge=1, description="Tokens of a pass without gradients (log-probabilities, values, scores)."
    )


class ClusterConfig(Section):
    """Several processes in place of one: ranks on this machine or on those of a Ray cluster, a GPU each, or on CPU some threads each.
    Results are those of one process but for the order of sums."""

    ranks: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Processes that share the passes; 1 = all in this one, with cluster.ray one a GPU of the cluster.",
    )
    shard: Literal["full", 1] = Field(
        default="full",
        description="full = each rank holds its share of weights, gradients and moments (FSDP2); 1 = each holds all, for small models.",
    )
    gather: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="What weights are put together in with shard=full. fp32 = as they are kept, and autocast rounds for products; bf16 = "
        "rounded before they travel, norms and embeddings too: half the traffic and half the memory of what is whole in a pass. Gradients "
        "are summed in float32 either way.",
    )
    offload: bool = Field(
        default=False,
        description="With shard=full: weights, gradients and moments lie in the machine's memory, and the GPU holds what a pass puts "
        "together; the CPU makes the updates. Slower. Without a GPU it changes nothing.",
    )
    timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds that a rank waits for the others amid a pass before it gives up. Between passes none waits.",
    )
    ray: str = Field(
        default="",
        description="Ranks as actors of a Ray cluster: HOST:PORT, or auto = the cluster of RAY_ADDRESS, the one that `ray start` began on "
        "this machine, or else a new one here, on the loopback interface. Empty = processes of this machine.",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="How often a run whose ranks were lost (killed, machine or network gone) goes on by itself from its last checkpoint, "
        "without a new one in between; 0 = it ends.",
    )

    @property
    def several(self) -> bool:
        """Is the work shared out?"""
        return self.ranks > 1 or bool(self.ray)

    @field_validator("ray")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value.startswith("ray://"):
            raise ValueError("ray:// goes through Ray's client, which Keel does not; start the command on a machine of the cluster")
        if value not in ("", "auto") and not value.rpartition(":")[2].isdecimal():
            raise ValueError(f"'{value}' is no address: HOST:PORT as `ray start` prints it, or auto")
        return value

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        unread = sorted({"gather", "offload", "shard", "timeout_s", "restarts"} & self.changed)
        if unread and not self.several:
            raise ValueError(f"cluster.{unread[0]} would have no effect: cluster.ranks is 1")
        whole = sorted({"gather", "offload"} & self.changed)
        if whole and self.shard == 1:
            raise ValueError(f"cluster.{whole[0]} would have no effect: with cluster.shard=1 every rank has all weights")
        return self
