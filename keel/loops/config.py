"""Settings of the loops: how long, how much at once, when to look."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.config import Section
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


class LoopConfig(Section):
    """How long to train, on how many units a step, and when to evaluate."""

    epochs: float = Field(default=1.0, gt=0, description="Passes over the training units (or prompts). Ignored when `steps` is set.")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps (iterations in RL). Overrides `epochs`.")
    batch_size: int = Field(
        default=16, ge=1, description="Units (demonstrations, pairs, prompts) of one optimizer batch, before samples are drawn."
    )
    last_batch: Literal["keep", "drop"] = Field(default="keep", description="What happens to the last, smaller batch of an epoch.")
    group_by_length: bool = Field(default=False, description="Put units of similar length into one batch (order still random by seed).")
    balance_by: str | None = Field(default=None, description="A key of the rows' extra columns: every value of it is drawn equally often.")
    eval_every: int = Field(default=0, ge=0, description="Evaluate every N steps; 0 = only before the first and after the last step.")
    eval_tokens: int = Field(
        default=0, ge=0, description="Evaluate whenever this many more tokens were trained on (sampled, in RL); in place of `eval_every`."
    )
    eval_at_start: bool = Field(default=True, description="Evaluate before the first step (the step-0 baseline).")
    probes: int = Field(default=4, ge=0, description="Held-out prompts answered at each evaluation, always the same; none for rewards.")
    best: EarlyStopConfig | None = Field(
        default=None,
        description="Which evaluation is the best and when to stop early; its weights become `final/`. Empty: the last weights do.",
    )

    @model_validator(mode="after")
    def _early_stop_needs_evaluations(self) -> LoopConfig:
        if self.best is not None and self.best.patience and not (self.eval_every or self.eval_tokens):
            raise ValueError("best.patience needs eval_every > 0 or eval_tokens > 0: an early stop looks at evaluations")
        if self.eval_every and self.eval_tokens:
            raise ValueError("eval_every and eval_tokens are both set: evaluate by steps or by tokens")
        return self
