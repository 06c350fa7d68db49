"""What is watched during training, and what stops it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.watch.names import PLAIN, direction, nearest

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

    @model_validator(mode="after")
    def _the_metric_can_exist(self) -> Rule:
        plain = not set("/*?[") & set(self.metric)  # names with a slash may hold names that a recipe gives
        near = nearest(self.metric, PLAIN) if plain and self.metric not in PLAIN else ""
        if near:  # another name that is like none may be a user's own; if it never comes, that is told at the end
            raise ValueError(f"rule {self.name!r}: there is no metric {self.metric!r}; did you mean {near!r}?")
        return self


class EmergencyConfig(Section):
    """What happens when a rule of level `rollback` speaks, or gradients are not finite three times in a row: the run goes back to its last
    good checkpoint and on from there with these changes, all told in `events.jsonl`."""

    rollbacks: int = Field(
        default=3, ge=0, description="So many times in a run; the next one stops it. 0: the first one does, and rollback means stop."
    )
    lr_factor: float = Field(default=0.1, gt=0, le=1, description="All learning rates are multiplied by this, each time.")
    kl_factor: float = Field(default=2.0, ge=1, description="The price of the KL to the reference is multiplied by this, each time.")


class WatchConfig(Section):
    """Rules that are checked after every step and every evaluation. The default ones warn; only a run whose samples all fail is stopped by
    one, and gradients that are not finite take it back. A rule of your own may act: `level: rollback` or `level: stop`."""

    defaults: bool = Field(default=True, description="Start from the default rules; false leaves only `rules`.")
    max_kl_per_token: float = Field(
        default=2.0, gt=0, description="Default rules warn when `kl`, in nats per token, stays above this for 3 steps."
    )
    max_kl_per_sequence: float = Field(
        default=100.0,
        gt=0,
        description="The same for `objective/kl` and `kl_point`, in nats per answer: raise it for answers of many hundred tokens.",
    )
    max_reward_fall: float = Field(
        default=1.0,
        gt=0,
        description="Default rules warn when the reward of 10 steps is this much below its best, in units of `reward_std`.",
    )
    max_imbalance: float = Field(
        default=200.0,
        gt=1,
        description="Default rules warn when the gradient of one part of a model (language, projector, vision) is this many times that of "
        "another, over 10 steps, for 5 steps.",
    )
    emergency: EmergencyConfig = Field(default=EmergencyConfig(), description="What a rule of level rollback does.")
    rules: tuple[Rule, ...] = Field(default=(), description="Your own rules; one with the name of a default rule replaces it.")


class EarlyStopConfig(Section):
    """End a stage when a validation metric no longer improves."""

    metric: str = Field(
        default="",
        description="Metric of the evaluation that is watched, which also decides which checkpoint is the best. Empty: the stage's own.",
    )
    mode: Literal["min", "max"] | None = Field(
        default=None, description="Whether lower or higher is better. Empty: as the metric's name says (a loss, a reward, an accuracy)."
    )
    patience: int = Field(default=0, ge=0, description="Evaluations without improvement before the stage ends; 0 = never end early.")
    min_change: float = Field(default=0.0, ge=0, description="Smaller improvements than this count as none.")

    @model_validator(mode="after")
    def _has_a_direction(self) -> EarlyStopConfig:
        if self.metric and self.mode is None and direction(self.metric) is None:
            raise ValueError(f"is a higher or a lower {self.metric} better? Set mode to max or min")
        return self
