"""Settings of a reward of several members."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from keel.core.config import Section


class EarlyExitConfig(Section):
    """Members that are asked only where the first ones disagree."""

    first: int = Field(default=2, ge=2, description="Models (or adapters) that are asked about every answer.")
    below: float = Field(gt=0, description="Where their standard deviation is at most this, the others are not asked.")


class EnsembleConfig(Section):
    """What becomes of several members' scores."""

    aggregate: Literal["mean", "weighted", "median", "robust", "min", "lower_bound"] = Field(
        default="mean",
        description="Of the members' scores: mean; mean by `weights`; median; a mean in which members far from the median "
        "count little; the least; the mean less `k` standard deviations.",
    )
    k: float = Field(default=1.0, ge=0, description="lower_bound: standard deviations that are taken off.")
    refuse_above: float | None = Field(
        default=None, gt=0, description="An answer on which the members' standard deviation is above this gets no reward, and is counted."
    )
    members: list[str] = Field(default=[], description="Further reward models that are asked beside `path`; each score in its own scale.")
    weights: list[float] = Field(
        default=[], description="weighted: of the models in order; empty = softmax of their held-out accuracies over `sharpness`."
    )
    sharpness: float = Field(
        default=0.05, gt=0, description="weighted: a model whose held-out accuracy is better by this much counts e times as much."
    )
    early_exit: EarlyExitConfig | None = Field(
        default=None, description="Ask all members only where the first disagree; empty = always all."
    )

    @model_validator(mode="after")
    def _weights_are_read(self) -> EnsembleConfig:
        if self.aggregate != "weighted" and {"weights", "sharpness"} & self.changed:
            raise ValueError("weights and sharpness would have no effect: set aggregate=weighted")
        if self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ValueError("weights are 0 or more, and not all 0")
        return self
