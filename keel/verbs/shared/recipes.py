"""The root recipes: one class a verb. Sections belong to their rooms; here they are only put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.data.config import DataConfig
from keel.learner.config import BatchConfig, ClusterConfig, OptimConfig
from keel.loops.config import LoopConfig
from keel.models.config import LoraConfig, ModelOptions
from keel.render.config import RenderConfig
from keel.runs.config import CheckpointConfig, TrackingConfig
from keel.selftest import CheckName
from keel.watch.config import WatchConfig


class Settings(Section):
    """How a run behaves as a program: threads, checkpoints, trackers, the self-test, alarms."""

    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads; empty = what torch chooses. Part of what makes a resume exact."
    )
    deterministic: bool = Field(default=True, description="Ask torch for deterministic algorithms (on CPU they are anyway).")
    skip_self_test: list[CheckName] = Field(default=[], description="Self-test checks to skip; the message of a failed check names it.")
    max_refused: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Largest share of a data set's records that may be refused for one and the same reason; beyond it the run stops.",
    )
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="When to save and what to keep.")
    tracking: TrackingConfig = Field(default=TrackingConfig(), description="Where metrics go beside the run directory.")
    watch: WatchConfig = Field(default=WatchConfig(), description="Limits on metrics that warn or stop.")


class NamedFile(NamedTuple):
    """A file or a model that a recipe names."""

    key: str  # path of the setting
    name: str
    is_model: bool = False


class ModelRecipe(Section):
    """What every verb shares: the model, how text becomes tokens, where the run lives."""

    model: str = Field(description="Folder, Hugging Face id, *.gguf file, package:PKG/FILE (a file in an installed package) or tiny:ARCH.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How the model is loaded and computed.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens and which tokens are trained.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything that is drawn.")
    run_dir: str = Field(default="", description="Run directory; empty = runs/<recipe's name>. Started again, it resumes.")
    settings: Settings = Field(default=Settings(), description="Threads, checkpoints, trackers, self-test, alarms.")

    def files(self) -> Iterator[NamedFile]:
        """Everything beside the data that may be a file or folder here; what a run that goes on must find as it was."""
        yield NamedFile("model", self.model, is_model=True)


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained, whatever it learns from."""

    optim: OptimConfig
    loop: LoopConfig
    seed: int = 0
    batch: BatchConfig = field(default_factory=BatchConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


class TrainRecipe(ModelRecipe):
    """What every training verb shares."""

    PRICED: ClassVar[bool] = False  # its loss has a price on KL and entropy, which a phase may set

    lora: LoraConfig | None = Field(
        default=None, description="Train adapters of this shape instead of all weights; empty = full fine-tuning."
    )
    optim: OptimConfig = Field(default=OptimConfig(), description="Optimizer, learning rate, schedule.")
    batch: BatchConfig = Field(default=BatchConfig(), description="How an optimizer batch is cut into micro-batches.")
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="Processes that share the work of training.")
    loop: LoopConfig = Field(default=LoopConfig(), description="How long, how much at once, when to evaluate.")
    data: DataConfig = Field(description="Training data.")
    held_out: DataConfig | float = Field(
        default=0.1, description="Held-out data: a data section, or the share of prompts to hold out of `data`."
    )

    test: DataConfig | float = Field(
        default=0.0,
        description="Data to evaluate on once, after training; it chooses nothing. A section, or a share of `data`'s prompts; 0 = none.",
    )

    @property
    def training(self) -> Training:
        return Training(self.optim, self.loop, self.seed, self.batch, self.cluster)

    @field_validator("held_out", "test")
    @classmethod
    def _is_a_share(cls, value: DataConfig | float) -> DataConfig | float:
        if not isinstance(value, DataConfig) and not 0.0 <= value < 1.0:
            raise ValueError(f"a share of the prompts is at least 0 and below 1, not {value:g}")
        return value

    @model_validator(mode="after")
    def _phases_are_read(self) -> TrainRecipe:
        prices = [p.name for p in self.loop.phases if p.kl_coef is not None or p.entropy_coef is not None]
        if prices and not self.PRICED:
            raise ConfigError(f"loop.phases: {prices[0]} sets kl_coef or entropy_coef, which only RL has", "leave it out")
        return self

    def _refuse_dropout(self) -> None:
        """For losses that compare with recorded log-probabilities. A reward model's loss has none: its answers are only compared with one
        another, and scores are taken without dropout."""
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                f"lora.dropout is {self.lora.dropout}, but this loss compares log-probabilities with recorded ones, which have no dropout: "
                "set lora.dropout=0"
            )
