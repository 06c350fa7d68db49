"""What is watched during training, what is told to whom, and what stops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.watch.alerts.config import AlertsConfig
from keel.watch.expressions.parser import COMPARE, parse, patterns
from keel.watch.expressions.tokens import is_name
from keel.watch.names import PLAIN, direction, nearest

Compare = Literal[">", ">=", "<", "<=", "==", "non-finite"]
Level = Literal["info", "warning", "critical"]
Act = Literal["", "lower_lr", "raise_kl", "pause", "rollback", "stop"]
MISSPELT = 0.75  # so alike that one was meant and the other written


class Rule(Section):
    """A rule, as data. It speaks when its condition holds ``for`` steps in a row; see docs/alarms.md."""

    name: str = Field(min_length=1, description="Short name, shown with the message; a rule of the same name replaces a default one.")
    expr: str = Field(default="", description="The condition, e.g. `kl > 2 and eval/reward < first(eval/reward, 1)`; see docs/alarms.md.")
    metric: str = Field(default="", description="In place of `expr`: a metric's name, or a pattern: `rewards/*/std`.")
    compare: Compare | None = Field(default=None, description="With `metric`: >, >=, <, <=, ==, or non-finite (NaN or infinite).")
    threshold: float = Field(default=0.0, description="With `metric`: right side of the comparison; not read by non-finite.")
    for_steps: int = Field(default=1, ge=1, description="Written `for` or `for_steps`: steps in a row before the rule speaks.")
    keep_for: int = Field(default=0, ge=0, description="Steps without the condition before it is over; a shorter pause is none.")
    level: Level = Field(default="warning", description="info, warning or critical; `rollback` and `stop` mean critical with that `act`.")
    message: str = Field(default="", description="What it means and what to do about it.")
    page: str = Field(default="", description="Where it is explained: a path or an address, shown with the message.")
    act: Act = Field(
        default="",
        description="What the run does when it speaks: lower_lr, raise_kl, pause, rollback or stop (see `emergency`). Empty: nothing.",
    )
    always: bool = Field(default=False, description="It acts even while `settings.watch.act` is false, as rules of a recipe do.")

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        rule = dict(cast("Mapping[str, Any]", given))
        if "for" in rule:
            if "for_steps" in rule:
                raise ValueError("`for` and `for_steps` are one setting: write one of them")
            rule["for_steps"] = rule.pop("for")
        if rule.get("level") in ("rollback", "stop"):
            if rule.get("act", rule["level"]) != rule["level"]:
                raise ValueError(f"level {rule['level']} and act {rule['act']} are at odds: write level: critical, act: {rule['act']}")
            rule["act"], rule["level"] = rule["level"], "critical"
        return rule

    @model_validator(mode="after")
    def _can_be_read(self) -> Rule:
        if bool(self.expr) == bool(self.metric):
            raise ValueError(f"rule {self.name!r} needs a condition: expr, or metric with compare")
        if self.metric and self.compare is None:
            raise ValueError(f"rule {self.name!r}: metric {self.metric} needs compare (>, <, ..., non-finite); or write expr")
        if self.expr and self.changed & {"compare", "threshold"}:
            raise ValueError(f"rule {self.name!r}: compare and threshold belong to metric, and are not read beside expr")
        if self.always and not self.act:
            raise ValueError(f"rule {self.name!r}: `always` is about `act`, which is empty")
        try:
            found = patterns(self.condition)
            names = parse(self.condition).names - set(found)
        except ValueError as error:
            raise ValueError(f"rule {self.name!r}: {error}") from None
        if len(found) > 1:
            raise ValueError(f"rule {self.name!r}: one pattern in a rule, not {len(found)}: write a rule each")
        for name in sorted(names):  # another name that is like none may be a user's own; if it never comes, that is told
            near = nearest(name, PLAIN, MISSPELT) if "/" not in name and name not in PLAIN else ""
            if near:
                raise ValueError(f"rule {self.name!r}: there is no metric {name!r}; did you mean {near!r}?")
        return self

    @property
    def condition(self) -> str:
        """The condition as an expression, whichever way it was written."""
        if self.expr:
            return " ".join(self.expr.split())
        plain = self.metric.replace("_", "").replace("/", "").isalnum() and is_name(self.metric)
        name = self.metric if plain else f"`{self.metric}`"
        if self.compare == "non-finite":
            return f"not finite({name})"
        assert self.compare in COMPARE
        short = f"{self.threshold:g}"
        return f"{name} {self.compare} {short if float(short) == self.threshold else repr(self.threshold)}"


class EmergencyConfig(Section):
    """What happens when a rule acts, or gradients are not finite three times in a row. Rollback: the run goes back to its last good
    checkpoint and on from there with these changes. All of it is told in `events.jsonl`."""

    rollbacks: int = Field(
        default=3, ge=0, description="So many times in a run; the next one stops it. 0: the first one does, and rollback means stop."
    )
    lr_factor: float = Field(default=0.1, gt=0, le=1, description="All learning rates are multiplied by this, each time.")
    kl_factor: float = Field(default=2.0, ge=1, description="The price of the KL to the reference is multiplied by this, each time.")
    recover_after: int = Field(
        default=50,
        ge=0,
        description="After so many steps without an alarm above info, learning rates and the price of the KL begin to come back; 0: never.",
    )
    recover_steps: int = Field(default=50, ge=1, description="So many steps bring one `lr_factor` and one `kl_factor` back, a little each.")


class WatchConfig(Section):
    """Rules that are checked after every step and every evaluation. The default ones observe; only a run whose samples all fail is stopped
    by one, and gradients that are not finite take it back. A rule of the recipe acts when it has an `act`."""

    defaults: bool = Field(default=True, description="Start from the default rules; false leaves `files` and `rules`.")
    act: bool = Field(
        default=False,
        description="Let the default rules, and those of `files`, do what their `act` says. False: they only say that they would have.",
    )
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
    emergency: EmergencyConfig = Field(default=EmergencyConfig(), description="What a rule that acts does.")
    files: tuple[str, ...] = Field(
        default=(), description="Rule files to add: paths, or `documents` for the limits of the documents. Later ones replace by name."
    )
    rules: tuple[Rule, ...] = Field(default=(), description="Your own rules; one with the name of a default rule replaces it.")
    alerts: AlertsConfig = Field(default=AlertsConfig(), description="Who is told of alarms, beside the run's own files and the terminal.")

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules have the name {name!r}: the second would replace the first")
        return rules


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
