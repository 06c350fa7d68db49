"""Settings of scenes: how hard they are."""

from __future__ import annotations

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.simulate.scenes.words import COLOURS, MATERIALS, SHAPES, SIZES


class SceneConfig(Section):
    """How many objects a picture has, and in how many ways they differ. The defaults are easy."""

    objects: tuple[int, int] = Field(default=(1, 3), description="Least and most objects of a picture.")
    shapes: int = Field(default=3, ge=1, le=len(SHAPES), description="Different shapes.")
    colours: int = Field(default=3, ge=1, le=len(COLOURS), description="Different colours.")
    sizes: int = Field(default=1, ge=1, le=len(SIZES), description="Different sizes; with 1 nothing is said about size.")
    materials: int = Field(default=1, ge=1, le=len(MATERIALS), description="Different materials; with 1 nothing is said about them.")
    repeats: float = Field(default=0.15, ge=0, le=1, description="Chance that an object looks like one before it: what counts are for.")
    grid: int = Field(default=3, ge=2, le=6, description="Objects stand in the cells of a grid of this many rows and columns.")
    pixels: int = Field(default=112, ge=28, le=1024, description="Width and height of the picture.")

    @model_validator(mode="after")
    def _fits(self) -> SceneConfig:
        low, high = self.objects
        if not 1 <= low <= high <= self.grid**2:
            raise ValueError(f"objects must be least and most, between 1 and grid x grid = {self.grid**2}, are {list(self.objects)}")
        return self
