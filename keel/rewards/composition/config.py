"""Settings of how several rewards become one."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section


class Gate(Section):
    """Weights that depend on one of the scores: while that one is low, it may count for most."""

    source: str = Field(description="Name of the reward whose score decides, sample by sample.")
    threshold: float = Field(default=0.5, description="Below it the weights are `below`, from it on `above`.")
    below: dict[str, float] = Field(min_length=1, description="Weights by reward while the score is low, e.g. {safety: 0.6, help: 0.2}.")
    above: dict[str, float] = Field(min_length=1, description="Weights by reward once it is not.")


class Constraint(Section):
    """A reward that should reach a level on average: its multiplier rises while it does not, and falls to 0 when it does."""

    source: str = Field(description="Name of the reward; weight 0 leaves it out of the rest of the sum.")
    at_least: float = Field(description="Mean score to reach.")
    lr: float = Field(default=0.05, gt=0, description="What a step adds to the multiplier for each unit that is missing.")
    start: float = Field(default=0.0, ge=0, description="Multiplier at the first step.")
    high: float = Field(default=10.0, gt=0, description="Greatest multiplier.")


class Phase(Section):
    """Weights for a part of the run."""

    until: float = Field(gt=0, le=1, description="Share of the run's steps at which the phase ends.")
    weights: dict[str, float] = Field(min_length=1, description="Weights by reward; rewards that are not named keep their own.")


class LearnedWeights(Section):
    """Weights that follow what the rewards lack: one that stays under its level gets more weight, the whole is shared out anew."""

    levels: dict[str, float] = Field(min_length=1, description="Mean score that each of these rewards should reach.")
    window: int = Field(default=10, ge=1, description="Steps over which the mean is taken.")
    factor: float = Field(default=1.1, gt=1, description="What the weight of a reward under its level is multiplied with at each step.")
    entropy: float = Field(default=0.01, ge=0, lt=1, description="Share by which log-weights are drawn to their mean at each step.")


class CompositionConfig(Section):
    """How the scores of a sample become its reward."""

    how: Literal["sum", "product", "min"] = Field(
        default="sum",
        description="sum: of weight * score; product: of score to the power of its weight, for scores of 0 and above; min: the least "
        "weight * score (the worst counts).",
    )
    normalise: Literal["none", "group"] = Field(
        default="none", description="group: each score is first normalised within its group (GDPO, with algorithm.name=gdpo)."
    )
    floor: float = Field(default=1e-3, gt=0, description="Least factor of a product: a score of 0 must not hide all the others.")
    gate: Gate | None = Field(default=None, description="Weights that depend on one of the scores.")
    phases: list[Phase] = Field(default=[], description="Weights by part of the run, in order; after the last, the rewards' own.")
    learned: LearnedWeights | None = Field(default=None, description="Weights that follow what the rewards lack.")
    constraints: list[Constraint] = Field(default=[], description="Rewards that should reach a level, by Lagrange multipliers.")

    @field_validator("phases")
    @classmethod
    def _in_order(cls, value: list[Phase]) -> list[Phase]:
        if any(a.until >= b.until for a, b in pairwise(value)):
            raise ValueError("phases must stand in order: each `until` above the one before")
        return value

    @model_validator(mode="after")
    def _go_together(self) -> CompositionConfig:
        if self.normalise == "group" and self.how != "sum":
            raise ValueError(f"normalise=group makes scores of mean 0: how={self.how} would mean nothing, use how=sum")
        if self.learned is not None and (self.phases or self.gate is not None):
            raise ValueError("learned weights would be overwritten by phases or gate: use one of them")
        if "floor" in self.changed and self.how != "product":
            raise ValueError("floor would have no effect: only how=product reads it")
        return self

    def names(self) -> set[str]:
        """Every reward that these settings name."""
        found = {c.source for c in self.constraints} | {name for phase in self.phases for name in phase.weights}
        if self.gate is not None:
            found |= {self.gate.source, *self.gate.below, *self.gate.above}
        return found | set(self.learned.levels if self.learned is not None else ())
