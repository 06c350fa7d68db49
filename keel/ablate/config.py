"""Settings of `keel ablate`: the section `ablate` of a recipe of a stage that trains."""

from __future__ import annotations

from pydantic import Field

from keel.core.config import Section
from keel.tune.config import MeasureConfig


class AblateConfig(MeasureConfig):
    """Settings of the recipe are switched off one at a time; each change is trained on the same seeds as the recipe as it stands."""

    keys: list[str] = Field(
        default=[],
        description="What is switched off, as in the command: `KEY` (off is what its type says: false, 0, null), or `KEY=VALUE,VALUE`.",
    )
    seeds: int = Field(default=3, ge=2, description="Seeds of each change and of the recipe as it stands: its own and those after it.")
    jobs: int = Field(default=1, ge=1, description="Runs at a time, each in a process of its own where there are several.")


class AblateRecipe(Section):
    """`keel ablate`: a recipe of a stage that trains, with a section `ablate` or without one. Beside all the settings of that stage."""

    ablate: AblateConfig = Field(default=AblateConfig(), description="What is switched off, over how many seeds, and what counts.")
