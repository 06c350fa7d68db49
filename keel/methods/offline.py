"""Offline reinforcement learning on logged rewards: losses by name, in one table, and their settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.core.schema import key_of
from keel.methods.credit.logged import Baseline
from keel.methods.objectives.logged import LoggedObjective

LOGGED_OBJECTIVES: dict[str, LoggedObjective] = {
    o.name: o
    for o in (
        # Peng et al. 2019 (arXiv:1910.00177): temperature 1 of standardised advantages, weights up to 20
        LoggedObjective("awr", beta=1.0, max_weight=20.0),
        LoggedObjective("reinforce", importance="token", max_weight=1.0),
        # Le Roux et al. 2025 (arXiv:2503.14286): one ratio a sequence, in [0, 1], below the baseline only
        LoggedObjective("topr", importance="sequence", max_weight=1.0),
    )
}
_OWN = " Empty: the loss's own."


class LoggedConfig(Section):
    """A loss of answers with logged rewards."""

    name: Annotated[str, key_of(LOGGED_OBJECTIVES)] = Field(
        default="awr",
        description="awr: imitate answers, the better the more (advantage-weighted regression). reinforce: the policy gradient, with "
        "importance weights. topr: the same, with weights below the baseline only.",
    )
    baseline: Baseline = Field(
        default="group",
        description="What a reward is compared with: the mean over the prompt's answers (group), over the optimizer batch (batch), the "
        "number in the data's column `value` (value), or nothing (none).",
    )
    scale: bool = Field(default=True, description="Divide the optimizer batch's advantages by their root mean square.")
    beta: float | None = Field(
        default=None, gt=0, description="awr: temperature of the weights exp(advantage / beta); small imitates the best alone." + _OWN
    )
    max_weight: float | None = Field(
        default=None, gt=0, description="The largest weight: of exp(advantage / beta), or of an importance weight." + _OWN
    )
    importance: Literal["none", "token", "sequence"] | None = Field(
        default=None,
        description="reinforce, topr: weights, policy over starting weights, of each token or of whole answers; none: no weights." + _OWN,
    )
    length_normalised: bool = Field(default=False, description="Mean over an answer's tokens in place of the sum.")
    kl_coef: float = Field(
        default=0.0,
        ge=0,
        description="Price of a nat of KL(starting weights || policy) of whole distributions at each token, counted as the loss is.",
    )
    dimension: str = Field(default="", description="Which of the data's ratings is the reward; empty = the only one.")

    @model_validator(mode="after")
    def _parts_go_together(self) -> LoggedConfig:
        logged_objective(self)
        return self


def logged_objective(config: LoggedConfig) -> LoggedObjective:
    """The objective that ``config`` describes.

    Raises:
        ConfigError: settings that nothing would read; all of them at once, each with its reason.
    """
    problems = list(_idle(config))
    if problems:
        raise ConfigError(f"objective '{config.name}' cannot be as set: " + "; ".join(problems))
    row = LOGGED_OBJECTIVES[config.name]
    importance = row.importance if config.importance is None else (None if config.importance == "none" else config.importance)
    return replace(
        row,
        baseline=config.baseline,
        scale=config.scale,
        beta=row.beta if config.beta is None else config.beta,
        max_weight=row.max_weight if config.max_weight is None else config.max_weight,
        importance=importance,
        per_token=config.length_normalised,
        kl_coef=config.kl_coef,
        dimension=config.dimension,
    )


def _idle(config: LoggedConfig) -> Iterator[str]:
    if config.name == "awr" and config.importance is not None:
        yield "importance would have no effect: awr weighs by the advantage (reinforce and topr read it)"
    if config.name != "awr" and config.beta is not None:
        yield f"beta would have no effect: {config.name} has no temperature (awr has)"
    if config.name == "topr" and config.importance == "none":
        yield "importance=none makes topr plain (name=reinforce)"
    if config.name != "awr" and config.importance == "none" and config.max_weight is not None:
        yield "max_weight would have no effect: there are no importance weights"
