"""Settings of the loops: how long, how much at once, when to look."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.watch.config import EarlyStopConfig


class ExplorationConfig(Section):
    """Rollouts of RL that are drawn otherwise than from the policy. They are weighed by what they were really drawn from."""

    temperatures: tuple[float, ...] = Field(
        default=(), description="The samples of a prompt are shared out among these, in order. Empty: all at sampling.temperature."
    )
    share: float = Field(
        default=0.0, ge=0, lt=1, description="Each token is drawn, with this probability, from the hotter distribution instead."
    )
    hot: float = Field(default=2.0, gt=0, description="The temperature of that one.")

    @property
    def on(self) -> bool:
        """Does it change anything?"""
        return bool(self.temperatures) or self.share > 0

    @field_validator("temperatures")
    @classmethod
    def _warm(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0.001 <= t < float("inf") for t in value):
            raise ValueError("temperatures are 0.001 or more: greedy samples of a prompt would all be the same")
        return value


class GroundingConfig(Section):
    """Which sampled tokens hang on what their prompt shows: those that are more likely with it than with grey in its place. Told by one
    more pass of the policy."""

    every: int = Field(
        default=0,
        ge=0,
        description="Steps between those that measure `kl` and `entropy` by kind of token; 0 = none, unless algorithm.kl.grounded or "
        "ungrounded asks at every step.",
    )
    above: float = Field(default=0.1, ge=0, description="Nats that a token's log-probability must be higher with what is shown.")


class RolloutsConfig(Section):
    """How far the sampler may run ahead of the training."""

    lag: int = Field(
        default=0,
        ge=0,
        description="Rollouts of a step are drawn by the weights of so many steps before, while the policy is updated; needs "
        "algorithm.correction. It saves time where sampler.engine=server; 0: by the newest weights.",
    )
    in_flight: bool = Field(
        default=False,
        description="Engines take new weights between two tokens of the rollouts under way, which go on by them; else new weights wait "
        "until all is drawn. Needs sampler.engine=server and lag.",
    )
    journal: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Keep rollouts in the run as they arrive, so that a killed run learns from those that were drawn. auto: where they "
        "would not be drawn alike again (vLLM, SGLang, a sampler of yours, in_flight).",
    )


class RobustConfig(Section):
    """The group of prompts that does worst counts most (group DRO, Sagawa et al. 2020): a group's weight rises while its rewards are below
    the others'."""

    by: str = Field(min_length=1, description="Key of the prompts' extra columns that names the group; every prompt needs it.")
    step: float = Field(default=0.01, gt=0, description="How fast weights move: a group's is multiplied by exp(-step * its mean reward).")


class PersonalConfig(Section):
    """An adapter for each user or group on one shared base. Data may grow: the same command again learns what is new."""

    by: str = Field(min_length=1, description="Column of the data that names whose adapter a row trains; every row needs it.")
    replay: float = Field(
        default=1.0, ge=0, description="Earlier rows of the same owner beside each new one, when a run goes on with more data."
    )
    shown: int = Field(
        default=16, ge=0, description="Owners whose own metrics stand among the run's; `final/adapters.json` has those of all."
    )


class PhaseConfig(Section):
    """A stretch of a training with settings of its own; what is left empty stays as it is elsewhere in the recipe."""

    name: str = Field(min_length=1, description="What the phase is called in events.")
    until: float = Field(gt=0, le=1, description="Where it ends, as a share of all steps; the last phase ends at 1.")
    lr: float | None = Field(default=None, gt=0, description="Learning rate in place of optim's (lora_lr_factor comes on top).")
    lr_end: float | None = Field(default=None, ge=0, description="Where the learning rate has got to in its last step, in a straight line.")
    kl_coef: float | None = Field(default=None, ge=0, description="RL: price of a nat to the reference, whatever its controller says.")
    entropy_coef: float | None = Field(default=None, ge=0, description="RL: reward of a nat of entropy, the same way.")
    eval_every: int | None = Field(default=None, ge=0, description="In place of loop.eval_every.")
    train: tuple[str, ...] = Field(
        default=(),
        description="Parts of the model that are updated in it, of those that the recipe trains (model_options.train names them): "
        "[projector]; NAME:last2 are the last two layers of one. Empty: all. In RL the policy's; a critic rests in no phase.",
    )


class LoopConfig(Section):
    """How long to train, on how many units a step, and when to evaluate."""

    epochs: float = Field(default=1.0, gt=0, description="Passes over the training units (or prompts). Ignored when `steps` is set.")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps (iterations in RL). Overrides `epochs`.")
    batch_size: int = Field(
        default=16,
        ge=1,
        description="Units of one optimizer batch: demonstrations, or prompts with all their pairs, ratings or (in RL) samples. Pairs of "
        "one prompt are one unit: 16 are 16 prompts, however many pairs.",
    )
    last_batch: Literal["keep", "drop"] = Field(default="keep", description="What happens to the last, smaller batch of an epoch.")
    group_by_length: bool = Field(default=False, description="Put units of similar length into one batch (order still random by seed).")
    balance_by: str | None = Field(default=None, description="A key of the rows' extra columns: every value of it is drawn equally often.")
    eval_every: int = Field(default=0, ge=0, description="Evaluate every N steps; 0 = only before the first and after the last step.")
    eval_tokens: int = Field(
        default=0, ge=0, description="Evaluate whenever this many more tokens were trained on (sampled, in RL); in place of `eval_every`."
    )
    eval_at_start: bool = Field(default=True, description="Evaluate before the first step (the step-0 baseline).")
    pause_at: int = Field(
        default=0,
        ge=0,
        description="Evaluate after this step, save and leave; with another number, or none, the run goes on as if nothing had been.",
    )
    probes: int = Field(default=4, ge=0, description="Held-out prompts answered at each evaluation, always the same; none for rewards.")
    best: EarlyStopConfig | None = Field(
        default=None,
        description="Which evaluation is the best and when to stop early; its weights become `final/`. Empty: the last weights do.",
    )

    phases: tuple[PhaseConfig, ...] = Field(
        default=(), description="Stretches of the training with settings of their own, one after the other. Empty: none."
    )

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> LoopConfig:
        ends = [phase.until for phase in self.phases]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1.0):
            raise ValueError(f"phases end at {', '.join(f'{e:g}' for e in ends)}: each `until` is above the one before, the last is 1")
        if unread := [phase.name for phase in self.phases if phase.lr is None and phase.lr_end is not None]:
            raise ValueError(f"phase {unread[0]}: lr_end would have no effect without lr, where it starts from")
        return self

    @model_validator(mode="after")
    def _early_stop_needs_evaluations(self) -> LoopConfig:
        by_phase = any(phase.eval_every for phase in self.phases)
        if self.best is not None and self.best.patience and not (self.eval_every or self.eval_tokens or by_phase):
            raise ValueError("best.patience needs eval_every > 0 or eval_tokens > 0: an early stop looks at evaluations")
        if self.eval_every and self.eval_tokens:
            raise ValueError("eval_every and eval_tokens are both set: evaluate by steps or by tokens")
        return self


class CurriculumConfig(Section):
    """Easy rows first, then a growing share of all."""

    by: Literal["labels", "model"] = Field(
        default="labels", description="What is easy: a clear label (strength, votes that agree), or what `model` gets right by far."
    )
    model: str = Field(default="", description="by=model: an earlier reward model with this model's tokenizer.")
    start: float = Field(default=0.3, gt=0, le=1, description="Share of the rows, the easiest, that training begins with.")
    until: float = Field(default=0.5, gt=0, le=1, description="Share of all steps after which every row is in.")
    stages: int = Field(default=4, ge=1, description="In how many equal steps the share grows.")

    @model_validator(mode="after")
    def _model_is_read(self) -> CurriculumConfig:
        if (self.by == "model") != bool(self.model):
            raise ValueError("by=model and model=PATH belong together: " + ("name the model" if self.by == "model" else "set by=model"))
        return self


class AgainConfig(Section):
    """Rows that come again by what the model makes of them: hard-case mining, or sampling by the present loss."""

    by: Literal["wrong", "loss"] = Field(
        default="wrong", description="wrong: rows that the model gets wrong come `cap` times as often; loss: by their loss over the median."
    )
    share: float = Field(
        default=0.5, gt=0, le=1, description="Share of each batch's places that is drawn by weight; the rest takes all rows in turn."
    )
    every: int = Field(default=20, ge=1, description="Steps after which rows are measured anew.")
    pool: int = Field(
        default=256, ge=1, description="Rows measured each time, without gradients, in turn; the others keep their last measure."
    )
    cap: float = Field(default=3.0, gt=1, description="The most that a row may weigh; one that is right or not measured yet weighs 1.")
    noise: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the measured rows, those of the greatest loss, whose labels are not trusted: weight 1.",
    )


class OrderConfig(Section):
    """The order of the training rows. Empty: all in turn, shuffled by the seed."""

    curriculum: CurriculumConfig | None = Field(default=None, description="Easy rows first; empty = none.")
    again: AgainConfig | None = Field(default=None, description="Rows that are hard come again; empty = none.")
