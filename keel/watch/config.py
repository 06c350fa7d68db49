"""What is watched during training, and what stops it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.config import Section

Compare = Literal[">", ">=", "<", "<=", "==", "non-finite"]
Level = Literal["info", "warning", "rollback", "stop"]


class Rule(Section):
    """A rule over one metric, as data. It speaks when the comparison holds ``for_steps`` steps in a row in which the metric is there."""

    name: str = Field(description="Short name, shown with the message; a rule of the same name replaces a default one.")
    metric: str = Field(description="Metric name, or a pattern: `rewards/*/std`. A metric that is not reported is not judged.")
    compare: Compare = Field(description="Comparison that must hold: >, >=, <, <=, ==, or non-finite (NaN or infinite).")
    threshold: float = Field(default=0.0, description="Right side of the comparison; not read by non-finite.")
    for_steps: int = Field(default=1, ge=1, description="Steps in a row before the rule speaks.")
    level: Level = Field(default="warning", description="info, warning, rollback (see `emergency`) or stop: end the run after this step.")
    message: str = Field(default="", description="What it means and what to do about it.")


class EmergencyConfig(Section):
    """What happens when a rule of level `rollback` speaks, or gradients are not finite three times in a row: the run goes back to its last
    good checkpoint and on from there with these changes, all told in `events.jsonl`."""

    rollbacks: int = Field(
        default=3, ge=0, description="So many times in a run; the next one stops it. 0: the first one does, and rollback means stop."
    )
    lr_factor: float = Field(default=0.1, gt=0, le=1, description="All learning rates are multiplied by this, each time.")
    kl_factor: float = Field(default=2.0, ge=1, description="The price of the KL to the reference is multiplied by this, each time.")


class WatchConfig(Section):
    """Rules that are checked after every step."""

    defaults: bool = Field(default=True, description="Start from the default rules; false leaves only `rules`.")
    max_kl_per_token: float = Field(
        default=2.0, gt=0, description="Default rules roll back when `kl`, in nats per token, stays above this for 3 steps."
    )
    max_kl_per_sequence: float = Field(
        default=100.0, gt=0, description="The same for `objective/kl`, in nats per answer: raise it for answers of many hundred tokens."
    )
    max_reward_fall: float = Field(
        default=1.0,
        gt=0,
        description="Default rules roll back when the reward of 10 steps is this much below its best, in units of `reward_std`.",
    )
    emergency: EmergencyConfig = Field(default=EmergencyConfig(), description="What a rule of level rollback does.")
    rules: tuple[Rule, ...] = Field(default=(), description="Your own rules; one with the name of a default rule replaces it.")


class EarlyStopConfig(Section):
    """End a stage when a validation metric no longer improves."""

    metric: str = Field(
        default="eval/loss", description="Metric of the evaluation that is watched; also decides which checkpoint is the best."
    )
    mode: Literal["min", "max"] = Field(default="min", description="Whether lower or higher is better.")
    patience: int = Field(default=0, ge=0, description="Evaluations without improvement before the stage ends; 0 = never end early.")
    min_change: float = Field(default=0.0, ge=0, description="Smaller improvements than this count as none.")
