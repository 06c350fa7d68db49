"""Settings of `keel sft`."""

from __future__ import annotations

from pydantic import Field

from keel.render.augment import AugmentConfig
from keel.verbs.shared.continual import ContinualRecipe


class SFTRecipe(ContinualRecipe):
    """`keel sft`: imitate demonstrations."""

    augment: AugmentConfig | None = Field(default=None, description="Training images in another form each epoch; empty = as they are.")

    def shared(self) -> list[tuple[str, bool, str]]:
        return [("augment", self.augment is not None, "shows images as they are: leave augment out")]
