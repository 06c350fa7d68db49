"""Direct preference losses by name, in one table, and their settings. A new loss is a function and one row in ``PREFERENCE_OBJECTIVES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from keel.config import Section
from keel.losses.preference import dpo
from keel.objectives.preference import PreferenceObjective
from keel.schema import key_of
from keel.types import Objective

PREFERENCE_OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "dpo": lambda config: PreferenceObjective(dpo, config.beta, config.label_smoothing),
}


class ObjectiveConfig(Section):
    """A direct preference loss by name, and its numbers."""

    name: Annotated[str, key_of(PREFERENCE_OBJECTIVES)] = Field(default="dpo", description=f"One of: {', '.join(PREFERENCE_OBJECTIVES)}.")
    beta: float = Field(default=0.1, gt=0, description="Strength of the tie to the reference.")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="Share of the preferences that is taken to be wrong (cDPO).")


def preference_objective(config: ObjectiveConfig) -> Objective:
    """The objective that ``config`` describes. Units need a PairTarget and the signal ``ref_logprobs``."""
    return PREFERENCE_OBJECTIVES[config.name](config)
