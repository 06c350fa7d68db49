"""Settings of `keel sweep`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from keel.rewards.table import RewardConfig
from keel.rollout.config import SamplerConfig
from keel.verbs.shared.inputs import reward_files
from keel.verbs.shared.recipes import ModelRecipe, NamedFile


class SweepRecipe(ModelRecipe):
    """`keel sweep MODEL`: answers to the same prompts at each temperature and top-p, scored."""

    prompts: tuple[str, ...] = Field(min_length=1, description="Files of prompts, in any layout that training data may have.")
    limit: int | None = Field(default=None, ge=1, description="Take only the first N rows of each of these files.")
    rewards: list[RewardConfig] = Field(min_length=1, description="Scorers; what is compared is their weighted sum.")
    temperatures: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 0.5, 0.7, 1.0), min_length=1, description="To try.")
    top_ps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.9, 1.0), min_length=1, description="To try at each temperature above 0; at 0 there is nothing to cut."
    )
    now_temperature: float = Field(default=1.0, ge=0, description="What is used now: of equally good settings the nearest is taken.")
    now_top_p: float = Field(default=1.0, gt=0, le=1, description="The same.")
    samples: int = Field(default=4, ge=1, description="Answers to each prompt; one at temperature 0.")
    max_tokens: int = Field(default=128, ge=1, description="Longest answer, in tokens.")
    draws: int = Field(default=10_000, ge=100, description="Bootstrap resamples behind each interval.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Level of the intervals.")
    sampler: SamplerConfig = Field(default=SamplerConfig(max_rows=256), description="How the sampler packs its work.")

    @property
    def grid(self) -> tuple[tuple[float, float], ...]:
        """(temperature, top_p) of each setting, each once."""
        cells = [(t, p if t else 1.0) for t in self.temperatures for p in self.top_ps]
        return tuple(dict.fromkeys(cells))

    def files(self) -> Iterator[NamedFile]:
        yield from super().files()
        yield from reward_files("rewards", self.rewards)
