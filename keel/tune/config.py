"""Settings of `keel tune`: the section `tune` of a recipe of a stage that trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.watch.names import direction

Verb = Literal["rl", "prefer", "sft", "reward", "offline"]
OWN = (
    "seed",
    "run_dir",
    "tune",
    "loop.steps",
    "loop.epochs",
    "loop.pause_at",
    "settings",
)  # what the search itself sets, or what trains nothing


class RangeConfig(Section):
    """Where a setting is looked for. Written short: `[1e-6, 1e-4]`."""

    low: float | None = Field(default=None, description="The least value.")
    high: float | None = Field(default=None, description="The greatest value.")
    scale: Literal["log", "linear", "whole"] = Field(
        default="log",
        description="log: equal factors are equally likely; linear: equal differences; whole: whole numbers, by factors.",
    )
    values: tuple[Any, ...] = Field(default=(), description="In place of low and high: one of these.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            if len(given) != 2:
                raise ValueError(f"a range is [low, high], not {len(given)} values; for a choice write {{values: [...]}}")
            return {"low": given[0], "high": given[1]}
        return given

    @model_validator(mode="after")
    def _is_a_range(self) -> RangeConfig:
        if self.values:
            if self.changed & {"low", "high", "scale"}:
                raise ValueError("values stands in place of low, high and scale")
            if len(self.values) < 2 or len({repr(v) for v in self.values}) < len(self.values):
                raise ValueError("a choice needs two different values or more, none twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range needs low and high (or values)")
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.scale != "linear" and self.low <= 0:
            raise ValueError(f"low is {self.low:g}: by factors only what is above 0 can be searched; set scale: linear")
        if self.scale == "whole" and (self.low % 1 or self.high % 1):
            raise ValueError("a range of whole numbers begins and ends with whole numbers")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values between which, or among which, is searched."""
        if self.values:
            return self.values
        assert self.low is not None
        assert self.high is not None
        return (int(self.low), int(self.high)) if self.scale == "whole" else (self.low, self.high)


class MeasureConfig(Section):
    """Which stage is run, and what of it counts."""

    verb: Verb = Field(default="rl", description="The stage that is run.")
    measure: str = Field(
        default="",
        description="What counts: a metric of evaluations on held-out data, `eval/...`. Empty: in RL the first reward of weight 0 "
        "among `rewards` (it trains nothing, so nothing is gamed for it), else eval/reward; elsewhere eval/loss.",
    )
    mode: Literal["min", "max"] | None = Field(default=None, description="Whether less or more of it is better; empty: as its name says.")

    @model_validator(mode="after")
    def _measures_held_out(self) -> MeasureConfig:
        if self.measure and not self.measure.startswith("eval/"):
            raise ValueError(f"measure={self.measure}: what a run trains on chooses nothing; name a metric of evaluations, eval/...")
        if self.measure and self.mode is None and direction(self.measure) is None:
            raise ValueError(f"is a higher or a lower {self.measure} better? Set mode to max or min")
        return self


class TuneConfig(MeasureConfig):
    """A search for settings: many runs begin, the better part of them goes on, the best is set against the recipe as it stands, on seeds
    that chose nothing."""

    search: dict[str, RangeConfig] = Field(
        default={},
        description="What is searched, by key path. Empty: optim.lr and, where the algorithm has a KL, algorithm.kl.coef: a tenth to ten "
        "times the recipe's.",
    )
    budget: int = Field(default=0, ge=0, description="Optimizer steps of all runs together; 0: 20 times those of the recipe.")
    keep: int = Field(default=3, ge=2, description="One run in so many goes on at each halt, for so many times the steps.")
    first: int = Field(default=0, ge=0, description="Steps to the first halt; 0: those of the recipe divided by `keep` twice.")
    seeds: int = Field(
        default=3, ge=2, description="New seeds that train the best and the recipe's own settings to the end, to compare them."
    )

    @field_validator("search")
    @classmethod
    def _not_its_own(cls, search: dict[str, RangeConfig]) -> dict[str, RangeConfig]:
        for key in search:
            if key in OWN or key.startswith("settings."):
                raise ValueError(f"{key} is no setting of a training that can be searched")
        return search


class TuneRecipe(Section):
    """`keel tune`: a recipe of a stage that trains, with a section `tune` or without one. Beside all the settings of that stage."""

    tune: TuneConfig = Field(default=TuneConfig(), description="What is searched, for how many steps, and what counts.")
