"""Settings of `keel sft`."""

from __future__ import annotations

from keel.verbs.shared.recipes import TrainRecipe


class SFTRecipe(TrainRecipe):
    """`keel sft`: imitate demonstrations."""
